//! The argument of a handler: one attempt of one step, complete with all its documents.

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::{
    CancelReason, PermanentError, PlannedStep, StepError, cancel::Cancellation,
    proto::StepAssignment,
};

/// The server's default of `timeout_seconds`, used when an assignment has no time-out.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

/// One attempt of one step. Cheap to clone; every clone is the same attempt.
///
/// Documents arrive as JSON text and are parsed only on demand. Integers of any size and the order
/// of keys survive.
#[derive(Clone)]
pub struct StepContext {
    inner: Arc<Inner>,
}

struct Inner {
    assignment: StepAssignment,
    deadline: Instant,
    cancellation: Cancellation,
}

impl StepContext {
    pub(crate) fn new(assignment: StepAssignment, received: Instant) -> Self {
        let timeout = assignment
            .timeout
            .and_then(|timeout| Duration::try_from(timeout).ok())
            .unwrap_or(DEFAULT_TIMEOUT);
        // A time-out beyond the range of the clock is no deadline that a handler could use.
        let deadline = received
            .checked_add(timeout)
            .unwrap_or(received + DEFAULT_TIMEOUT);
        let inner = Inner {
            assignment,
            deadline,
            cancellation: Cancellation::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Id of the task, a UUID.
    pub fn task_id(&self) -> &str {
        &self.assignment().task_id
    }

    /// Namespace of the task's template.
    pub fn namespace(&self) -> &str {
        &self.assignment().namespace
    }

    /// Name of the task's template.
    pub fn task_name(&self) -> &str {
        &self.assignment().task_name
    }

    /// Version of the task's template, as in `2.6.0`.
    pub fn version(&self) -> &str {
        &self.assignment().version
    }

    /// Name of the step within its template.
    pub fn step_name(&self) -> &str {
        &self.assignment().step_name
    }

    /// Name of the handler, as registered with the worker.
    pub fn handler(&self) -> &str {
        &self.assignment().handler
    }

    /// The downstream service that circuits and limits protect; empty when the template names none.
    pub fn service(&self) -> &str {
        &self.assignment().service
    }

    /// Number of this attempt, from 1. Attempts that were lost to a crash or a deploy are numbered
    /// too, so it can exceed [`retry_limit`](Self::retry_limit).
    pub fn attempt(&self) -> u32 {
        self.assignment().attempt.try_into().unwrap_or(0)
    }

    /// How many charged attempts the step may have in all.
    pub fn retry_limit(&self) -> u32 {
        self.assignment().retry_limit.try_into().unwrap_or(0)
    }

    /// How many charged attempts the step had before this one. An attempt is charged when its
    /// handler failed or timed out, not when its worker was lost.
    pub fn charged_attempts(&self) -> u32 {
        self.assignment().charged_attempts.try_into().unwrap_or(0)
    }

    /// The task's context.
    ///
    /// # Errors
    /// `CONTEXT_INVALID`, permanent: the context is not a `T`.
    pub fn context<T: DeserializeOwned>(&self) -> Result<T, StepError> {
        parse(self.context_json(), "the task's context", "CONTEXT_INVALID")
    }

    /// The task's context as JSON text: an object.
    pub fn context_json(&self) -> &str {
        &self.assignment().context_json
    }

    /// The step's `handler_config`, with the template's overrides applied.
    ///
    /// # Errors
    /// `HANDLER_CONFIG_INVALID`, permanent: the configuration is not a `T`.
    pub fn handler_config<T: DeserializeOwned>(&self) -> Result<T, StepError> {
        parse(
            self.handler_config_json(),
            "the step's handler_config",
            "HANDLER_CONFIG_INVALID",
        )
    }

    /// The step's `handler_config` as JSON text: an object.
    pub fn handler_config_json(&self) -> &str {
        &self.assignment().handler_config_json
    }

    /// The result of an ancestor: a parent, its parents, and so on.
    ///
    /// # Errors
    /// `RESULT_MISSING`, permanent: no ancestor of this name has a result.
    /// `RESULT_INVALID`, permanent: its result is not a `T`.
    pub fn result_of<T: DeserializeOwned>(&self, step_name: &str) -> Result<T, StepError> {
        let Some(json) = self.results().get(step_name) else {
            let message = format!(
                "no result of `{step_name}`: it is not a complete ancestor of `{}`",
                self.step_name()
            );
            return Err(PermanentError::new(message)
                .error_code("RESULT_MISSING")
                .into());
        };
        parse(
            json,
            format_args!("the result of `{step_name}`"),
            "RESULT_INVALID",
        )
    }

    /// JSON text of every ancestor's result, by step name; `null` for one that was skipped.
    pub fn results(&self) -> &HashMap<String, String> {
        &self.assignment().results_json
    }

    /// The step's annotations as JSON text: an object.
    pub fn annotations_json(&self) -> &str {
        &self.assignment().annotations_json
    }

    /// For a planner: the steps of the task as they are so far, in the order of the template.
    ///
    /// # Errors
    /// `PLANNED_STEPS_INVALID`, permanent: the step is not a planner's.
    pub fn planned_steps(&self) -> Result<Vec<PlannedStep>, StepError> {
        parse(
            &self.assignment().planned_steps_json,
            "the list of planned steps",
            "PLANNED_STEPS_INVALID",
        )
    }

    /// The id that follows the task through every service; pass it on.
    pub fn correlation_id(&self) -> &str {
        &self.assignment().correlation_id
    }

    /// The W3C trace context of the attempt, or of the submit when the server exports no spans;
    /// `None` when there is neither. [`http::headers`](crate::http::headers) passes it on.
    pub fn traceparent(&self) -> Option<&str> {
        Some(self.assignment().traceparent.as_str()).filter(|parent| !parent.is_empty())
    }

    /// Constant over all attempts of the step: `task_id/step_name`. Give it to the service you
    /// call, so that a retried step has one effect.
    pub fn idempotency_key(&self) -> &str {
        &self.assignment().idempotency_key
    }

    /// The token of the lease on this attempt, unique to it: for logs, and for a service that
    /// distinguishes attempts. Any holder of the token can answer for the step, so show it only to
    /// readers that may.
    pub fn lease_token(&self) -> &str {
        &self.assignment().lease_token
    }

    /// When the server times the attempt out, by this machine's monotonic clock: the time of
    /// receipt plus the step's time-out. Clock skew does not matter, but time on the wire does:
    /// leave a margin.
    pub fn deadline(&self) -> Instant {
        self.inner.deadline
    }

    /// The time left until [`deadline`](Self::deadline), zero when it has passed: a time-out for
    /// the calls a handler makes.
    pub fn remaining(&self) -> Duration {
        self.inner
            .deadline
            .saturating_duration_since(Instant::now())
    }

    /// Waits until the server asks the worker to stop this attempt. A handler that continues for
    /// five seconds after that is dropped at its next `.await`.
    pub async fn cancelled(&self) -> CancelReason {
        self.inner.cancellation.token().cancelled().await;
        // The reason is set before the token, so the default is never returned.
        self.cancel_reason().unwrap_or(CancelReason::LeaseLost)
    }

    /// Whether the server asked the worker to stop this attempt.
    pub fn is_cancelled(&self) -> bool {
        self.inner.cancellation.token().is_cancelled()
    }

    /// A token that is cancelled with the attempt, for APIs that take one.
    pub fn cancellation_token(&self) -> CancellationToken {
        // A child: a handler that cancels its token must not cancel the attempt's own.
        self.inner.cancellation.token().child_token()
    }

    /// Why the attempt was cancelled; `None` while it is not.
    pub fn cancel_reason(&self) -> Option<CancelReason> {
        self.inner.cancellation.reason()
    }

    pub(crate) fn cancellation(&self) -> &Cancellation {
        &self.inner.cancellation
    }

    fn assignment(&self) -> &StepAssignment {
        &self.inner.assignment
    }
}

/// Omits the documents: they are the user's data, and large.
impl fmt::Debug for StepContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepContext")
            .field("task_id", &self.task_id())
            .field("step_name", &self.step_name())
            .field("handler", &self.handler())
            .field("attempt", &self.attempt())
            .field("cancel_reason", &self.cancel_reason())
            .finish_non_exhaustive()
    }
}

fn parse<T: DeserializeOwned>(
    json: &str,
    what: impl fmt::Display,
    code: &str,
) -> Result<T, StepError> {
    serde_json::from_str(json).map_err(|reason| {
        let message = format!("{what} does not match the type of the handler: {reason}");
        PermanentError::new(message).error_code(code).into()
    })
}
