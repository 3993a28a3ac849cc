//! A step of a template.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::backoff::Backoff;
use crate::expression::Expression;
use crate::step_index::StepIndex;

/// One step of a template.
#[derive(Debug, Clone, PartialEq)]
pub struct StepTemplate {
    /// Unique in the template. At most [`MAX_NAME_BYTES`](crate::MAX_NAME_BYTES).
    pub name: String,
    /// For readers; empty when the step has none.
    pub description: String,
    /// The name under which workers register the code of the step (`handler_class`).
    pub handler: String,
    /// The downstream system that circuits and limits protect: `handler_config.service`, else a key
    /// of the Rails engine (`rails.rs`), else the handler's name.
    pub service: String,
    /// The parents, sorted, unique, never forming a cycle.
    pub depends_on: Vec<StepIndex>,
    /// The ancestors whose results the handler receives, sorted and unique; `None` for all.
    pub inputs: Option<Vec<StepIndex>>,
    /// The most charged attempts of the step, 1 to [`MAX_RETRY_LIMIT`](crate::MAX_RETRY_LIMIT); 1 when it is not retryable.
    pub retry_limit: u32,
    /// Whether a retryable error leads to another attempt.
    pub retryable: bool,
    /// Time-out of an attempt: [`MIN_TIMEOUT`](crate::MIN_TIMEOUT) to [`MAX_TIMEOUT`](crate::MAX_TIMEOUT).
    pub timeout: Duration,
    /// The delay between attempts.
    pub backoff: Backoff,
    /// The configuration that the handler receives, including `service` and `timeout_seconds`.
    pub handler_config: Map<String, Value>,
    /// `when`: the step is skipped when it is false.
    pub condition: Option<Expression>,
    /// JSON Schema of the result, which has been compiled once without a problem.
    pub result_schema: Option<Value>,
    /// Annotations with which each run of the step starts.
    pub annotations: Map<String, Value>,
}
