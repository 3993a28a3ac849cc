//! Enumerations of the domain as enumerations of the protocol, and back for filters.

use strum::VariantArray as _;
use tonic::Status;

use crate::{
    domain::{attempt::OutcomeKind, event::EventType, step::StepState, task::TaskState},
    grpc::error::invalid,
    proto,
};

pub fn task_state(state: TaskState) -> proto::TaskState {
    match state {
        TaskState::Pending => proto::TaskState::Pending,
        TaskState::InProgress => proto::TaskState::InProgress,
        TaskState::Complete => proto::TaskState::Complete,
        TaskState::Error => proto::TaskState::Error,
        TaskState::Cancelled => proto::TaskState::Cancelled,
        TaskState::ResolvedManually => proto::TaskState::ResolvedManually,
    }
}

/// A state of a filter.
pub fn task_state_from(state: i32) -> Result<TaskState, Status> {
    // A search over the other direction, so that the two conversions cannot differ.
    TaskState::VARIANTS
        .iter()
        .copied()
        .find(|known| i32::from(task_state(*known)) == state)
        .ok_or_else(|| invalid("states", format!("{state} is not a state: see TaskState")))
}

pub fn event_type(kind: EventType) -> proto::EventType {
    match kind {
        EventType::TaskSubmitted => proto::EventType::TaskSubmitted,
        EventType::TaskStarted => proto::EventType::TaskStarted,
        EventType::TaskCompleted => proto::EventType::TaskCompleted,
        EventType::TaskFailed => proto::EventType::TaskFailed,
        EventType::TaskCancelled => proto::EventType::TaskCancelled,
        EventType::StepStarted => proto::EventType::StepStarted,
        EventType::StepCompleted => proto::EventType::StepCompleted,
        EventType::StepFailed => proto::EventType::StepFailed,
        EventType::StepRetrying => proto::EventType::StepRetrying,
        EventType::StepCancelled => proto::EventType::StepCancelled,
        EventType::WorkerConnected => proto::EventType::WorkerConnected,
        EventType::WorkerLost => proto::EventType::WorkerLost,
        EventType::CircuitOpened => proto::EventType::CircuitOpened,
        EventType::CircuitHalfOpened => proto::EventType::CircuitHalfOpened,
        EventType::CircuitClosed => proto::EventType::CircuitClosed,
        EventType::CircuitForced => proto::EventType::CircuitForced,
        EventType::CircuitReleased => proto::EventType::CircuitReleased,
        EventType::CircuitReset => proto::EventType::CircuitReset,
        EventType::CircuitPaused => proto::EventType::CircuitPaused,
        EventType::CircuitPolicyChanged => proto::EventType::CircuitPolicyChanged,
        EventType::TaskRepaired => proto::EventType::TaskRepaired,
        EventType::TaskReopened => proto::EventType::TaskReopened,
        EventType::TaskResolved => proto::EventType::TaskResolved,
        EventType::TaskPaused => proto::EventType::TaskPaused,
        EventType::TaskResumed => proto::EventType::TaskResumed,
        EventType::TaskPlanned => proto::EventType::TaskPlanned,
        EventType::StepReopened => proto::EventType::StepReopened,
        EventType::StepAnsweredLate => proto::EventType::StepAnsweredLate,
        EventType::StepResolved => proto::EventType::StepResolved,
        EventType::StepSkipped => proto::EventType::StepSkipped,
        EventType::PauseSet => proto::EventType::PauseSet,
        EventType::PauseLifted => proto::EventType::PauseLifted,
        EventType::TemplateRetired => proto::EventType::TemplateRetired,
        EventType::TemplateRestored => proto::EventType::TemplateRestored,
    }
}

/// A type of a filter.
pub fn event_type_from(kind: i32) -> Result<EventType, Status> {
    EventType::VARIANTS
        .iter()
        .copied()
        .find(|known| i32::from(event_type(*known)) == kind)
        .ok_or_else(|| {
            invalid(
                "types",
                format!("{kind} is not a type of events: see EventType"),
            )
        })
}

pub fn step_state(state: StepState) -> proto::StepState {
    match state {
        StepState::Pending => proto::StepState::Pending,
        StepState::Ready => proto::StepState::Ready,
        StepState::InProgress => proto::StepState::InProgress,
        StepState::WaitingForRetry => proto::StepState::WaitingForRetry,
        StepState::Complete => proto::StepState::Complete,
        StepState::Error => proto::StepState::Error,
        StepState::Cancelled => proto::StepState::Cancelled,
        StepState::Skipped => proto::StepState::Skipped,
        StepState::ResolvedManually => proto::StepState::ResolvedManually,
    }
}

pub fn outcome(kind: OutcomeKind) -> proto::AttemptOutcome {
    match kind {
        OutcomeKind::Succeeded => proto::AttemptOutcome::Succeeded,
        OutcomeKind::RetryableError => proto::AttemptOutcome::RetryableError,
        OutcomeKind::PermanentError => proto::AttemptOutcome::PermanentError,
        OutcomeKind::TimedOut => proto::AttemptOutcome::TimedOut,
        OutcomeKind::WorkerLost => proto::AttemptOutcome::WorkerLost,
        OutcomeKind::Released | OutcomeKind::Undelivered => proto::AttemptOutcome::Released,
        OutcomeKind::Cancelled => proto::AttemptOutcome::Cancelled,
        OutcomeKind::Drained => proto::AttemptOutcome::Drained,
    }
}
