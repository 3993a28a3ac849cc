//! What the event log records.

/// The kind of a transition; also the database's `event_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    TaskSubmitted,
    TaskStarted,
    TaskCompleted,
    TaskFailed,
    TaskCancelled,
    /// The auditor found it broken and mended it; the error code says what was wrong.
    TaskRepaired,
    StepStarted,
    StepCompleted,
    /// The step failed for good.
    StepFailed,
    /// The attempt failed or was lost, and another one follows.
    StepRetrying,
    StepCancelled,
    WorkerConnected,
    WorkerLost,
    CircuitOpened,
    CircuitHalfOpened,
    CircuitClosed,
    /// An operator opened or closed it.
    CircuitForced,
    /// That order ended.
    CircuitReleased,
    /// An operator had everything forgotten.
    CircuitReset,
    /// The service asked for a pause.
    CircuitPaused,
    CircuitPolicyChanged,
    /// A failed task goes on, by an operator's word.
    TaskReopened,
    /// An operator settled a failed task as it is.
    TaskResolved,
    TaskPaused,
    TaskResumed,
    /// Its planner's answer holds now.
    TaskPlanned,
    /// An operator has a failed step tried again.
    StepReopened,
    /// An operator gave its result.
    StepResolved,
    /// Its condition is false, or an operator said so.
    StepSkipped,
    /// An operator paused a template or a namespace.
    PauseSet,
    PauseLifted,
    /// A worker answered an attempt that had ended; it has no effect.
    StepAnsweredLate,
    /// An operator retired a version of a template: it takes no new tasks.
    TemplateRetired,
    /// It takes tasks again.
    TemplateRestored,
}

impl EventType {
    /// Every one, in the order of the database's type.
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

    /// The name in the database and on every surface.
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
