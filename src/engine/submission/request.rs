//! A client's submit of a task, and its answer.

use std::{sync::Arc, time::SystemTime};

use semver::Version;
use uuid::Uuid;

use crate::{
    engine::plan::compiled::Plan,
    store::{StoreError, retirement::Retirement},
};

/// A client's submit of one task.
#[derive(Clone, Debug, Default)]
pub struct Submission {
    pub namespace: String,
    pub task_name: String,
    /// `None` for the newest version.
    pub version: Option<Version>,
    /// JSON object; empty for `{}`.
    pub context: String,
    pub priority: i32,
    /// Empty for none.
    pub idempotency_key: String,
    /// Empty: from the context, or generated.
    pub correlation_id: String,
    /// JSON object; empty for `{}`.
    pub annotations: String,
    pub traceparent: Option<String>,
    /// No step starts before this time.
    pub not_before: Option<SystemTime>,
}

/// The answer to a submit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submitted {
    pub task_id: Uuid,
    /// False for a repeat: the idempotency key was used before, and this is its first task.
    pub created: bool,
    pub correlation_id: String,
    pub version: String,
}

/// A violation in a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violated {
    /// The request's field, with a JSON pointer.
    pub field: String,
    pub message: String,
}

/// The reason for refusing a submit. `index` is the task's position in the request.
#[derive(Clone, Debug, thiserror::Error)]
pub enum IntakeError {
    #[error("the submission is invalid: {}", .0.first().map_or("", |(_, v)| v.message.as_str()))]
    Invalid(Vec<(usize, Violated)>),
    #[error("no template {namespace}/{task_name}{} is registered", .version.as_ref().map(|v| format!(" version {v}")).unwrap_or_default())]
    NoTemplate {
        index: usize,
        namespace: String,
        task_name: String,
        version: Option<Version>,
    },
    #[error(
        "idempotency key `{key}` was used in namespace `{namespace}` for task {task_id} with other content"
    )]
    KeyTaken {
        index: usize,
        namespace: String,
        key: String,
        task_id: Uuid,
    },
    /// The version is retired, or all versions of the template are.
    #[error("{}{namespace}/{task_name} version {version} was retired by {}: {}",
        if *.all { "every version is retired: " } else { "" }, .retirement.by, .retirement.reason)]
    Retired {
        index: usize,
        namespace: String,
        task_name: String,
        version: Version,
        /// The submit named no version, and all are retired.
        all: bool,
        retirement: Arc<Retirement>,
    },
    #[error("the intake queue is full")]
    Full,
    #[error("the server is shutting down")]
    ShuttingDown,
    #[error("the tasks cannot be stored: {0}")]
    Failed(Arc<StoreError>),
}

impl IntakeError {
    pub fn retired(
        index: usize,
        s: &Submission,
        plan: &Plan,
        retirement: &Arc<Retirement>,
    ) -> Self {
        Self::Retired {
            index,
            namespace: s.namespace.clone(),
            task_name: s.task_name.clone(),
            version: plan.template.version.clone(),
            all: s.version.is_none(),
            retirement: Arc::clone(retirement),
        }
    }
}
