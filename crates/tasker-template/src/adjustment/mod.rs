//! The changes that an override or a planner makes to a task and its steps.

mod read;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::limits::DEFAULT_RETRY_LIMIT;
use crate::step_index::StepIndex;
use crate::step_template::StepTemplate;

pub(crate) use read::{AdjustmentProblem, StepNames};

/// Changes to a task and its steps.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Adjustment {
    pub steps: BTreeMap<StepIndex, StepAdjustment>,
    /// Annotations for the task, which apply to each of its steps.
    pub annotations: Map<String, Value>,
    /// The task's priority, -[`MAX_PRIORITY`](crate::MAX_PRIORITY) to
    /// [`MAX_PRIORITY`](crate::MAX_PRIORITY).
    pub priority: Option<i16>,
}

/// Changes to one step; a field that is `None` or empty leaves the template's value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepAdjustment {
    /// The name of the step.
    pub name: String,
    pub retry_limit: Option<u32>,
    pub retryable: Option<bool>,
    /// Merged into the step's `handler_config`, maps within maps; `timeout_seconds` in it sets the
    /// step's time-out.
    pub handler_config: Map<String, Value>,
    /// Values of the back-off by field name.
    pub backoff: BTreeMap<&'static str, f64>,
    pub annotations: Map<String, Value>,
    /// Whether the step is skipped.
    pub skip: Option<bool>,
}

impl Adjustment {
    /// Reads the fields of an entry of `overrides` other than `when`.
    ///
    /// # Errors
    /// All problems, up to `read::MAX_PROBLEMS`.
    pub(crate) fn read(
        value: &Value,
        steps: &StepNames<'_>,
    ) -> Result<Adjustment, Vec<AdjustmentProblem>> {
        read::read(value, steps)
    }

    /// The JSON object from which `Adjustment::read` reads the same adjustment.
    pub fn to_value(&self) -> Value {
        let mut value = Map::new();
        // Empty parts are left out, so that `settings` lists only changes.
        if !self.steps.is_empty() {
            let steps = self
                .steps
                .values()
                .map(|step| (step.name.clone(), step.to_value()));
            value.insert("steps".into(), Value::Object(steps.collect()));
        }
        if !self.annotations.is_empty() {
            value.insert(
                "annotations".into(),
                Value::Object(self.annotations.clone()),
            );
        }
        if let Some(priority) = self.priority {
            value.insert("priority".into(), priority.into());
        }
        Value::Object(value)
    }

    /// The changes to the step with this index in the template, if there are any.
    pub(crate) fn step(&self, index: StepIndex) -> Option<&StepAdjustment> {
        self.steps.get(&index)
    }
}

impl StepAdjustment {
    fn to_value(&self) -> Value {
        let mut value = Map::new();
        let mut set =
            |key: &str, part: Option<Value>| drop(part.map(|part| value.insert(key.into(), part)));
        set("retry_limit", self.retry_limit.map(Value::from));
        set("default_retryable", self.retryable.map(Value::from));
        let some = |map: &Map<String, Value>| (!map.is_empty()).then(|| Value::Object(map.clone()));
        set("handler_config", some(&self.handler_config));
        set(
            "backoff",
            (!self.backoff.is_empty()).then(|| json!(self.backoff)),
        );
        set("annotations", some(&self.annotations));
        set("skip", self.skip.map(Value::from));
        Value::Object(value)
    }

    /// Whether a setting other than `skip` changes.
    pub(crate) fn changes_step(&self) -> bool {
        *self
            != StepAdjustment {
                name: self.name.clone(),
                skip: self.skip,
                ..StepAdjustment::default()
            }
    }

    pub(crate) fn apply(&self, step: &mut StepTemplate) {
        if let Some(retryable) = self.retryable {
            // `retryable` goes first, since it decides the limit: a template's step that is not
            // retryable has the limit 1, so becoming retryable means the default limit.
            if retryable && !step.retryable {
                step.retry_limit = DEFAULT_RETRY_LIMIT;
            }
            step.retryable = retryable;
        }
        step.retry_limit = match (step.retryable, self.retry_limit) {
            (false, _) => 1,
            (true, limit) => limit.unwrap_or(step.retry_limit),
        };
        merge(&mut step.handler_config, &self.handler_config);
        // The range was checked when the adjustment was read.
        let timeout = self.handler_config.get("timeout_seconds");
        if let Some(seconds) = timeout.and_then(Value::as_f64)
            && let Ok(timeout) = Duration::try_from_secs_f64(seconds)
        {
            step.timeout = timeout;
        }
        for (field, value) in &self.backoff {
            if let Some(place) = step.backoff.field_mut(field) {
                *place = *value;
            }
        }
        // Two adjustments that are valid one by one may conflict: one raises the base above the
        // maximum of the other.
        step.backoff.max_seconds = step.backoff.max_seconds.max(step.backoff.base_seconds);
        step.annotations.extend(self.annotations.clone());
    }

    /// The paths of the changed settings, such as `handler_config.timeout_seconds`.
    pub(crate) fn settings(&self) -> Vec<String> {
        let mut settings = Vec::new();
        leaves(&self.to_value(), "", &mut settings);
        settings
    }
}

fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        // An empty map is a value of its own, and a leaf.
        Value::Object(map) if path.is_empty() || !map.is_empty() => {
            for (key, value) in map {
                let path = if path.is_empty() {
                    key.clone()
                } else {
                    format!("{path}.{key}")
                };
                leaves(value, &path, found);
            }
        }
        _ => found.push(path.to_owned()),
    }
}

/// Merges `over` into `base`: maps within maps are merged, any other value is replaced.
pub(crate) fn merge(base: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(Value::Object(base)), Value::Object(over)) => merge(base, over),
            _ => drop(base.insert(key.clone(), value.clone())),
        }
    }
}
