//! The event log: the types of events, and a position in the log.

pub mod cursor;
pub mod pg_snapshot;

use strum::{EnumString, IntoStaticStr, VariantArray};

/// The kind of a transition; also the database's `event_type`, in its order. The name is the same in
/// the database and on each surface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumString, IntoStaticStr, VariantArray)]
pub enum EventType {
    #[strum(serialize = "task.submitted")]
    TaskSubmitted,
    #[strum(serialize = "task.started")]
    TaskStarted,
    #[strum(serialize = "task.completed")]
    TaskCompleted,
    #[strum(serialize = "task.failed")]
    TaskFailed,
    #[strum(serialize = "task.cancelled")]
    TaskCancelled,
    /// The auditor found an inconsistency and repaired it; the error code names the finding.
    #[strum(serialize = "task.repaired")]
    TaskRepaired,
    #[strum(serialize = "step.started")]
    StepStarted,
    #[strum(serialize = "step.completed")]
    StepCompleted,
    /// The step failed for good.
    #[strum(serialize = "step.failed")]
    StepFailed,
    /// The attempt failed or was lost, and a retry follows.
    #[strum(serialize = "step.retrying")]
    StepRetrying,
    #[strum(serialize = "step.cancelled")]
    StepCancelled,
    #[strum(serialize = "worker.connected")]
    WorkerConnected,
    #[strum(serialize = "worker.lost")]
    WorkerLost,
    #[strum(serialize = "circuit.opened")]
    CircuitOpened,
    #[strum(serialize = "circuit.half_opened")]
    CircuitHalfOpened,
    #[strum(serialize = "circuit.closed")]
    CircuitClosed,
    /// An operator opened or closed the circuit.
    #[strum(serialize = "circuit.forced")]
    CircuitForced,
    /// The operator's order ended.
    #[strum(serialize = "circuit.released")]
    CircuitReleased,
    /// An operator discarded the counts and the state of the circuit.
    #[strum(serialize = "circuit.reset")]
    CircuitReset,
    /// The service throttled its callers by `retry_after`.
    #[strum(serialize = "circuit.paused")]
    CircuitPaused,
    #[strum(serialize = "circuit.policy_changed")]
    CircuitPolicyChanged,
    /// An operator put a failed task back into progress.
    #[strum(serialize = "task.reopened")]
    TaskReopened,
    /// An operator settled a failed task as it is.
    #[strum(serialize = "task.resolved")]
    TaskResolved,
    #[strum(serialize = "task.paused")]
    TaskPaused,
    #[strum(serialize = "task.resumed")]
    TaskResumed,
    /// The planner's answer took effect.
    #[strum(serialize = "task.planned")]
    TaskPlanned,
    /// An operator ordered a retry of a failed step.
    #[strum(serialize = "step.reopened")]
    StepReopened,
    /// An operator gave the step's result.
    #[strum(serialize = "step.resolved")]
    StepResolved,
    /// The step's condition is false, or an operator skipped it.
    #[strum(serialize = "step.skipped")]
    StepSkipped,
    /// An operator paused a template or a namespace.
    #[strum(serialize = "pause.set")]
    PauseSet,
    #[strum(serialize = "pause.lifted")]
    PauseLifted,
    /// A worker answered an attempt that had ended; the answer has no effect.
    #[strum(serialize = "step.answered_late")]
    StepAnsweredLate,
    /// An operator retired a version of a template: it takes no new tasks.
    #[strum(serialize = "template.retired")]
    TemplateRetired,
    /// The version takes new tasks again.
    #[strum(serialize = "template.restored")]
    TemplateRestored,
}

impl EventType {
    /// The type with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        name.parse().ok()
    }

    /// The name in the database and on each surface.
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}
