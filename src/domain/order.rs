//! The orders that an operator can give about a task, and the reasons for a refusal.

use tasker_template::Violation;

use super::{step::StepState, task::TaskState};

/// The longest name of the operator, in bytes.
pub const MAX_BY_BYTES: usize = 255;
/// The longest reason, in bytes.
pub const MAX_REASON_BYTES: usize = 1_024;

/// The error code of a task whose deadline passed.
pub const DEADLINE_EXCEEDED: &str = "DEADLINE_EXCEEDED";

/// An operator's order about one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    Cancel,
    /// No further step starts. Running attempts go on to their end.
    Pause,
    Resume,
    /// Retries one failed step, or all failed ones. Each gets at least one more attempt; with
    /// `fresh`, as many as a new step.
    Retry {
        step: Option<String>,
        fresh: bool,
    },
    /// The step counts as done, and its children receive this JSON as its result.
    ResolveStep {
        step: String,
        result: String,
    },
    /// A failed task is settled as it is.
    ResolveTask,
    /// The step counts as done, without a result.
    Skip {
        step: String,
    },
}

impl Order {
    /// The participle of the order for messages, such as `cannot be cancelled`.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Cancel => "cancelled",
            Self::Pause => "paused",
            Self::Resume => "resumed",
            Self::Retry { .. } => "retried",
            Self::ResolveStep { .. } | Self::ResolveTask => "resolved",
            Self::Skip { .. } => "skipped",
        }
    }

    /// Approximate size of the order's texts in bytes.
    pub fn size(&self) -> usize {
        match self {
            Self::ResolveStep { step, result } => step.len() + result.len(),
            Self::Skip { step }
            | Self::Retry {
                step: Some(step), ..
            } => step.len(),
            _ => 0,
        }
    }
}

/// Why an order was refused. A refused order changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    #[error("there is no task {0}")]
    NotFound(uuid::Uuid),
    #[error("the task has no step `{0}`")]
    NoStep(String),
    #[error("the task is {state}: it cannot be {verb}")]
    TaskIs {
        state: TaskState,
        verb: &'static str,
    },
    #[error("step `{step}` is {state}: it cannot be {verb}")]
    StepIs {
        step: String,
        state: StepState,
        verb: &'static str,
    },
    #[error("the task is {0}, and none of its steps has failed: there is nothing to retry")]
    NothingFailed(TaskState),
    #[error("the task is error, as its deadline has passed: it cannot be {0}; submit it again")]
    Expired(&'static str),
    #[error("step `{0}` is resolved_manually already, with another result")]
    OtherResult(String),
    /// The result violates the step's schema or the planner's rules, or exceeds the budget.
    #[error("the order for step `{step}` is refused: {}", .violations.first().map_or("", |v| v.message.as_str()))]
    Unfit {
        step: String,
        violations: Vec<Violation>,
    },
    #[error("the order cannot be stored: {0}")]
    Failed(String),
}
