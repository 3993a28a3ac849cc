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
}

impl EventType {
    /// Every one, in the order of the database's type.
    pub const ALL: [Self; 21] = [
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
        }
    }
}
