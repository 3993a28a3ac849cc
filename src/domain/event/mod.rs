//! The event log: the types of events, and a position in the log.

pub mod cursor;
pub mod pg_snapshot;

/// The kind of a transition; also the database's `event_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    TaskSubmitted,
    TaskStarted,
    TaskCompleted,
    TaskFailed,
    TaskCancelled,
    /// The auditor found an inconsistency and repaired it; the error code names the finding.
    TaskRepaired,
    StepStarted,
    StepCompleted,
    /// The step failed for good.
    StepFailed,
    /// The attempt failed or was lost, and a retry follows.
    StepRetrying,
    StepCancelled,
    WorkerConnected,
    WorkerLost,
    CircuitOpened,
    CircuitHalfOpened,
    CircuitClosed,
    /// An operator opened or closed the circuit.
    CircuitForced,
    /// The operator's order ended.
    CircuitReleased,
    /// An operator discarded the counts and the state of the circuit.
    CircuitReset,
    /// The service throttled its callers by `retry_after`.
    CircuitPaused,
    CircuitPolicyChanged,
    /// An operator put a failed task back into progress.
    TaskReopened,
    /// An operator settled a failed task as it is.
    TaskResolved,
    TaskPaused,
    TaskResumed,
    /// The planner's answer took effect.
    TaskPlanned,
    /// An operator ordered a retry of a failed step.
    StepReopened,
    /// An operator gave the step's result.
    StepResolved,
    /// The step's condition is false, or an operator skipped it.
    StepSkipped,
    /// An operator paused a template or a namespace.
    PauseSet,
    PauseLifted,
    /// A worker answered an attempt that had ended; the answer has no effect.
    StepAnsweredLate,
    /// An operator retired a version of a template: it takes no new tasks.
    TemplateRetired,
    /// The version takes new tasks again.
    TemplateRestored,
}

impl EventType {
    /// All types, in the order of the database's type.
    pub const ALL: [Self; 34] = [
        Self::TaskSubmitted,
        Self::TaskStarted,
        Self::TaskCompleted,
        Self::TaskFailed,
        Self::TaskCancelled,
        Self::TaskRepaired,
        Self::StepStarted,
        Self::StepCompleted,
        Self::StepFailed,
        Self::StepRetrying,
        Self::StepCancelled,
        Self::WorkerConnected,
        Self::WorkerLost,
        Self::CircuitOpened,
        Self::CircuitHalfOpened,
        Self::CircuitClosed,
        Self::CircuitForced,
        Self::CircuitReleased,
        Self::CircuitReset,
        Self::CircuitPaused,
        Self::CircuitPolicyChanged,
        Self::TaskReopened,
        Self::TaskResolved,
        Self::TaskPaused,
        Self::TaskResumed,
        Self::TaskPlanned,
        Self::StepReopened,
        Self::StepResolved,
        Self::StepSkipped,
        Self::PauseSet,
        Self::PauseLifted,
        Self::StepAnsweredLate,
        Self::TemplateRetired,
        Self::TemplateRestored,
    ];

    /// The type with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// The name in the database and on each surface.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TaskSubmitted => "task.submitted",
            Self::TaskStarted => "task.started",
            Self::TaskCompleted => "task.completed",
            Self::TaskFailed => "task.failed",
            Self::TaskCancelled => "task.cancelled",
            Self::TaskRepaired => "task.repaired",
            Self::StepStarted => "step.started",
            Self::StepCompleted => "step.completed",
            Self::StepFailed => "step.failed",
            Self::StepRetrying => "step.retrying",
            Self::StepCancelled => "step.cancelled",
            Self::WorkerConnected => "worker.connected",
            Self::WorkerLost => "worker.lost",
            Self::CircuitOpened => "circuit.opened",
            Self::CircuitHalfOpened => "circuit.half_opened",
            Self::CircuitClosed => "circuit.closed",
            Self::CircuitForced => "circuit.forced",
            Self::CircuitReleased => "circuit.released",
            Self::CircuitReset => "circuit.reset",
            Self::CircuitPaused => "circuit.paused",
            Self::CircuitPolicyChanged => "circuit.policy_changed",
            Self::TaskReopened => "task.reopened",
            Self::TaskResolved => "task.resolved",
            Self::TaskPaused => "task.paused",
            Self::TaskResumed => "task.resumed",
            Self::TaskPlanned => "task.planned",
            Self::StepReopened => "step.reopened",
            Self::StepResolved => "step.resolved",
            Self::StepSkipped => "step.skipped",
            Self::PauseSet => "pause.set",
            Self::PauseLifted => "pause.lifted",
            Self::StepAnsweredLate => "step.answered_late",
            Self::TemplateRetired => "template.retired",
            Self::TemplateRestored => "template.restored",
        }
    }
}
