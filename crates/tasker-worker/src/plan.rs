//! A planner's input and answer. A planner is a handler like any other: a template names it under
//! `planner`, and it runs before every other step.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A step to plan, with its current settings.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct PlannedStep {
    /// Unique in its template.
    pub name: String,
    /// The name of the handler that performs it.
    pub handler: String,
    /// The downstream service that circuits and limits protect.
    pub service: String,
    /// The names of its parents; the planner is not among them.
    pub depends_on_steps: Vec<String>,
    /// Charged attempts in all.
    pub retry_limit: u32,
    /// Whether a retryable error leads to another attempt.
    pub default_retryable: bool,
    /// The configuration that its handler receives.
    pub handler_config: Map<String, Value>,
    /// Its own annotations.
    pub annotations: Map<String, Value>,
    /// Its back-off between attempts.
    pub backoff: Backoff,
    /// Whether an override skips it.
    pub skip: bool,
}

/// The back-off of a step between its attempts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Backoff {
    /// The wait after the first failure.
    pub base_seconds: f64,
    /// The factor by which each further wait is longer.
    pub multiplier: f64,
    /// The longest wait.
    pub max_seconds: f64,
    /// The share of the wait that is random, 0 to 1.
    pub jitter: f64,
}

/// A planner's answer: the changes to the task's steps. An invalid answer (a step that does not
/// exist, a limit out of bounds) fails the task with the code `PLAN_INVALID`.
///
/// ```
/// use serde_json::json;
/// use tasker_worker::{Plan, StepContext, StepError, Worker};
///
/// async fn plan(task: StepContext) -> Result<Plan, StepError> {
///     let context: serde_json::Value = task.context()?;
///     let mut plan = Plan::new();
///     if context["plan"] == "enterprise" {
///         plan.step("setup_billing_profile").retry_limit(5).handler_config("timeout_seconds", json!(45));
///     }
///     Ok(plan.annotation("plan_type", context["plan"].clone()))
/// }
///
/// Worker::builder(["http://127.0.0.1:7233"]).handler("Registration::Planner", plan).build()?;
/// # Ok::<(), tasker_worker::BuildError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Plan {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    steps: BTreeMap<String, StepPlan>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    annotations: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<i16>,
}

/// The changes to one step.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct StepPlan {
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_limit: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    default_retryable: Option<bool>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    handler_config: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backoff: Option<Backoff>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    annotations: Map<String, Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    skip: Option<bool>,
}

impl Plan {
    /// A plan without changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// The changes to a step; calls on them add to the plan.
    pub fn step(&mut self, name: impl Into<String>) -> &mut StepPlan {
        self.steps.entry(name.into()).or_default()
    }

    /// Adds an annotation to the task, visible to each of its steps.
    #[must_use]
    pub fn annotation(mut self, key: impl Into<String>, value: Value) -> Self {
        self.annotations.insert(key.into(), value);
        self
    }

    /// -100 to 100; a higher priority is served first.
    #[must_use]
    pub fn priority(mut self, priority: i16) -> Self {
        self.priority = Some(priority);
        self
    }
}

impl StepPlan {
    /// The number of charged attempts that the step may have in all.
    pub fn retry_limit(&mut self, limit: u32) -> &mut Self {
        self.retry_limit = Some(limit);
        self
    }

    /// Whether a retryable error leads to another attempt.
    pub fn retryable(&mut self, retryable: bool) -> &mut Self {
        self.default_retryable = Some(retryable);
        self
    }

    /// A key of the handler's configuration; a mapping is merged with the existing one.
    /// `timeout_seconds` is the step's time-out; `service` cannot be changed.
    pub fn handler_config(&mut self, key: impl Into<String>, value: Value) -> &mut Self {
        self.handler_config.insert(key.into(), value);
        self
    }

    /// The back-off between attempts.
    pub fn backoff(&mut self, backoff: Backoff) -> &mut Self {
        self.backoff = Some(backoff);
        self
    }

    /// Adds an annotation to the step.
    pub fn annotation(&mut self, key: impl Into<String>, value: Value) -> &mut Self {
        self.annotations.insert(key.into(), value);
        self
    }

    /// Skips the step; its children see null as its result.
    pub fn skip(&mut self) -> &mut Self {
        self.skip = Some(true);
        self
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plan_contains_only_changed_settings() {
        assert_eq!(serde_json::to_value(Plan::new()).unwrap(), json!({}));
        let mut plan = Plan::new().annotation("team", json!("a")).priority(5);
        plan.step("x")
            .retry_limit(5)
            .retryable(true)
            .handler_config("timeout_seconds", json!(45))
            .annotation("n", json!(1));
        plan.step("y").skip();
        let expected = json!({
            "steps": {
                "x": {"retry_limit": 5, "default_retryable": true, "handler_config": {"timeout_seconds": 45}, "annotations": {"n": 1}},
                "y": {"skip": true},
            },
            "annotations": {"team": "a"},
            "priority": 5,
        });
        assert_eq!(serde_json::to_value(plan).unwrap(), expected);
    }
}
