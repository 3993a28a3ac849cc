//! What an operator can tell a task to do, and why it may be refused.

use super::{schema::Violation, step::StepState, task::TaskState};

/// The longest name of who gives an order, in bytes.
pub const MAX_BY_BYTES: usize = 255;
/// The longest reason, in bytes.
pub const MAX_REASON_BYTES: usize = 1_024;

/// The code of a task whose deadline passed.
pub const DEADLINE_EXCEEDED: &str = "DEADLINE_EXCEEDED";

/// An operator's word about one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    Cancel,
    /// No further step starts. What runs goes on to its end.
    Pause,
    Resume,
    /// A failed step is tried again, or all that failed. Each gets at least one more attempt; with `fresh`, as many as a new step.
    Retry {
        step: Option<String>,
        fresh: bool,
    },
    /// A step is as good as done, and its children see this JSON.
    ResolveStep {
        step: String,
        result: String,
    },
    /// A failed task is settled as it is.
    ResolveTask,
    /// A step is as good as done, without a result.
    Skip {
        step: String,
    },
}

impl Order {
    /// The word that an operator says.
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

    /// About how many bytes it holds.
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

/// Why an order was not followed. Nothing has changed then.
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
    /// The step's schema, its planner's rules, or the budget of a judgement.
    #[error("the order about step `{step}` is refused: {}", .violations.first().map_or("", |v| v.message.as_str()))]
    Unfit {
        step: String,
        violations: Vec<Violation>,
    },
    #[error("the order could not be stored: {0}")]
    Failed(String),
}
