//! The changes that an override or a planner makes to a task and its steps.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::budget::{Budget, TooCostly};
use super::json;
use super::retry::Backoff;
use super::task::MAX_PRIORITY;
use super::template::{
    DEFAULT_RETRY_LIMIT, MAX_ANNOTATIONS_BYTES, MAX_HANDLER_CONFIG_BYTES, MAX_RETRY_LIMIT,
    MAX_TIMEOUT, MIN_TIMEOUT, PLANNER, StepTemplate, Template, timeout_expected,
};
use super::words::{did_you_mean, shorten};

/// Largest answer of a planner, in bytes of JSON.
pub const MAX_ADJUSTMENT_BYTES: usize = 256 * 1024;
/// The most problems that are listed for one adjustment.
const MAX_PROBLEMS: usize = 20;

/// Changes to a task and its steps.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Adjustment {
    /// By step name.
    pub steps: BTreeMap<String, StepAdjustment>,
    /// Annotations for the task, which apply to each of its steps.
    pub annotations: Map<String, Value>,
    /// The task's priority, -[`MAX_PRIORITY`] to [`MAX_PRIORITY`].
    pub priority: Option<i16>,
}

/// Changes to one step; a field that is `None` or empty leaves the template's value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepAdjustment {
    /// Index of the step in the template.
    pub index: usize,
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

/// One problem of an adjustment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdjustmentProblem {
    /// JSON pointer of the invalid value.
    pub pointer: String,
    pub message: String,
}

/// Why a planner's answer was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdjustmentError {
    /// All problems of the answer, each with the JSON pointer of its place.
    Problems(Vec<String>),
    /// Reading the answer would take more steps than the budget has left.
    TooCostly(TooCostly),
}

impl From<TooCostly> for AdjustmentError {
    fn from(error: TooCostly) -> Self {
        AdjustmentError::TooCostly(error)
    }
}

const KNOWN: [&str; 3] = ["steps", "annotations", "priority"];
const KNOWN_OF_STEP: [&str; 6] = [
    "retry_limit",
    "default_retryable",
    "handler_config",
    "backoff",
    "annotations",
    "skip",
];

impl Adjustment {
    /// Reads and validates a planner's answer.
    ///
    /// # Errors
    /// All problems, each with the JSON pointer of its place, or [`TooCostly`] if the budget is
    /// spent.
    pub fn from_json(
        text: &str,
        template: &Template,
        budget: &Budget,
    ) -> Result<Adjustment, AdjustmentError> {
        let wrong = AdjustmentError::Problems;
        // Pays for three passes over the text before the first: it is parsed, compared with the
        // template's steps, and serialised again.
        budget.spend(text.len() as u64 / 2)?;
        let value = json::parse(text, MAX_ADJUSTMENT_BYTES)
            .map_err(|error| wrong(vec![error.to_string()]))?;
        let mut problems = Vec::new();
        if template.planner && value.pointer(&format!("/steps/{PLANNER}")).is_some() {
            let message = format!("the step `{PLANNER}` has run before its answer applies");
            problems.push(AdjustmentProblem {
                pointer: format!("/steps/{PLANNER}"),
                message,
            });
        }
        let adjustment = match Adjustment::read(&value, &template.steps) {
            Ok(adjustment) if problems.is_empty() => return Ok(adjustment),
            Ok(_) => problems,
            Err(more) => problems.into_iter().chain(more).collect(),
        };
        let texts = adjustment
            .into_iter()
            .map(|problem| match problem.pointer.as_str() {
                "" => problem.message,
                pointer => format!("{pointer}: {}", problem.message),
            });
        Err(wrong(texts.collect()))
    }

    /// Reads the fields of an entry of `overrides` other than `when`.
    ///
    /// # Errors
    /// All problems, up to `MAX_PROBLEMS`.
    pub(super) fn read(
        value: &Value,
        steps: &[StepTemplate],
    ) -> Result<Adjustment, Vec<AdjustmentProblem>> {
        let mut reader = Reader {
            problems: Vec::new(),
        };
        let adjustment = reader.adjustment(value, steps);
        if reader.problems.is_empty() {
            Ok(adjustment)
        } else {
            Err(reader.problems)
        }
    }

    /// The JSON object from which `Adjustment::read` reads the same adjustment.
    pub fn to_value(&self) -> Value {
        let mut value = Map::new();
        if !self.steps.is_empty() {
            let steps = self
                .steps
                .iter()
                .map(|(name, step)| (name.clone(), step.to_value()));
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
    pub(super) fn step(&self, index: usize) -> Option<&StepAdjustment> {
        self.steps.values().find(|step| step.index == index)
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
    pub(super) fn changes_step(&self) -> bool {
        *self
            != StepAdjustment {
                index: self.index,
                skip: self.skip,
                ..StepAdjustment::default()
            }
    }

    pub(super) fn apply(&self, step: &mut StepTemplate) {
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
        if let Some(timeout) = self
            .handler_config
            .get("timeout_seconds")
            .and_then(Value::as_f64)
        {
            step.timeout = Duration::try_from_secs_f64(timeout).unwrap_or(step.timeout);
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
    pub(super) fn settings(&self) -> Vec<String> {
        let mut settings = Vec::new();
        leaves(&self.to_value(), "", &mut settings);
        settings
    }
}

fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
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
pub(super) fn merge(base: &mut Map<String, Value>, over: &Map<String, Value>) {
    for (key, value) in over {
        match (base.get_mut(key), value) {
            (Some(Value::Object(base)), Value::Object(over)) => merge(base, over),
            _ => drop(base.insert(key.clone(), value.clone())),
        }
    }
}

struct Reader {
    problems: Vec<AdjustmentProblem>,
}

impl Reader {
    fn problem(&mut self, pointer: impl Into<String>, message: impl Into<String>) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(AdjustmentProblem {
                pointer: pointer.into(),
                message: message.into(),
            });
        }
    }

    fn expected<T>(&mut self, pointer: &str, what: &str, found: &Value) -> Option<T> {
        let found = match found {
            Value::Array(_) => "a list".into(),
            Value::Object(_) => "a mapping".into(),
            scalar => shorten(&scalar.to_string()),
        };
        self.problem(pointer, format!("expected {what}, found {found}"));
        None
    }

    fn map<'v>(&mut self, pointer: &str, value: &'v Value) -> Option<&'v Map<String, Value>> {
        match value {
            Value::Object(map) => Some(map),
            other => self.expected(pointer, "a mapping", other),
        }
    }

    fn refuse_unknown(&mut self, pointer: &str, map: &Map<String, Value>, known: &[&str]) {
        for key in map.keys().filter(|key| !known.contains(&key.as_str())) {
            let hint = did_you_mean(key, known.iter().copied());
            let hint = if hint.is_empty() {
                format!("; expected one of {}", known.join(", "))
            } else {
                hint
            };
            self.problem(
                join(pointer, key),
                format!("unknown key `{}`{hint}", shorten(key)),
            );
        }
    }

    fn adjustment(&mut self, value: &Value, steps: &[StepTemplate]) -> Adjustment {
        let Some(map) = self.map("", value) else {
            return Adjustment::default();
        };
        self.refuse_unknown("", map, &KNOWN);
        Adjustment {
            steps: map
                .get("steps")
                .map(|value| self.steps(value, steps))
                .unwrap_or_default(),
            annotations: self.notes(map, "/annotations"),
            priority: map.get("priority").and_then(|value| {
                let what = format!("a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY}");
                let range = i64::from(-MAX_PRIORITY)..=i64::from(MAX_PRIORITY);
                self.integer("/priority", &what, value, range)?
                    .try_into()
                    .ok()
            }),
        }
    }

    fn steps(&mut self, value: &Value, steps: &[StepTemplate]) -> BTreeMap<String, StepAdjustment> {
        let mut found = BTreeMap::new();
        for (name, value) in self.map("/steps", value).into_iter().flatten() {
            let pointer = join("/steps", name);
            let Some((index, step)) = steps
                .iter()
                .enumerate()
                .find(|(_, step)| step.name == *name)
            else {
                let hint = did_you_mean(name, steps.iter().map(|step| step.name.as_str()));
                self.problem(
                    pointer,
                    format!("there is no step `{}`{hint}", shorten(name)),
                );
                continue;
            };
            found.insert(
                name.clone(),
                StepAdjustment {
                    index,
                    ..self.step(&pointer, value, step)
                },
            );
        }
        found
    }

    fn step(&mut self, pointer: &str, value: &Value, step: &StepTemplate) -> StepAdjustment {
        let Some(map) = self.map(pointer, value) else {
            return StepAdjustment::default();
        };
        self.refuse_unknown(pointer, map, &KNOWN_OF_STEP);
        let at = |key: &str| join(pointer, key);
        let adjustment = StepAdjustment {
            index: 0,
            retry_limit: map.get("retry_limit").and_then(|value| {
                let what = format!("a whole number from 1 to {MAX_RETRY_LIMIT}");
                self.integer(&at("retry_limit"), &what, value, 1..=MAX_RETRY_LIMIT.into())?
                    .try_into()
                    .ok()
            }),
            retryable: map
                .get("default_retryable")
                .and_then(|value| self.bool(&at("default_retryable"), value)),
            handler_config: map
                .get("handler_config")
                .map(|value| self.handler_config(&at("handler_config"), value, step))
                .unwrap_or_default(),
            backoff: map
                .get("backoff")
                .map(|value| self.backoff(&at("backoff"), value, step))
                .unwrap_or_default(),
            annotations: self.notes(map, &at("annotations")),
            skip: map
                .get("skip")
                .and_then(|value| self.bool(&at("skip"), value)),
        };
        let retried = adjustment.retry_limit.is_some_and(|limit| limit > 1);
        if retried && !adjustment.retryable.unwrap_or(step.retryable) {
            let message = "the step is not retryable, so it has one attempt; expected `default_retryable: true` beside it";
            self.problem(at("retry_limit"), message);
        }
        adjustment
    }

    fn bool(&mut self, pointer: &str, value: &Value) -> Option<bool> {
        value
            .as_bool()
            .or_else(|| self.expected(pointer, "true or false", value))
    }

    fn integer(
        &mut self,
        pointer: &str,
        what: &str,
        value: &Value,
        range: std::ops::RangeInclusive<i64>,
    ) -> Option<i64> {
        value
            .as_i64()
            .filter(|value| range.contains(value))
            .or_else(|| self.expected(pointer, what, value))
    }

    /// The annotations of `map`; `pointer` is the pointer of the annotations themselves.
    fn notes(&mut self, map: &Map<String, Value>, pointer: &str) -> Map<String, Value> {
        let Some(value) = map.get("annotations") else {
            return Map::new();
        };
        self.free_map(pointer, value, MAX_ANNOTATIONS_BYTES)
    }

    fn free_map(&mut self, pointer: &str, value: &Value, max_bytes: usize) -> Map<String, Value> {
        let Some(map) = self.map(pointer, value) else {
            return Map::new();
        };
        let bytes = value.to_string().len();
        if bytes > max_bytes {
            self.problem(
                pointer,
                format!(
                    "the mapping has {bytes} bytes as JSON, but at most {max_bytes} are allowed"
                ),
            );
        }
        map.clone()
    }

    fn handler_config(
        &mut self,
        pointer: &str,
        value: &Value,
        step: &StepTemplate,
    ) -> Map<String, Value> {
        let map = self.free_map(pointer, value, MAX_HANDLER_CONFIG_BYTES);
        if map.contains_key("service") {
            let message = "a step keeps the service of its template, to which its circuit and its limits belong";
            self.problem(join(pointer, "service"), message);
        }
        if let Some(value) = map.get("timeout_seconds") {
            let range = MIN_TIMEOUT.as_secs_f64()..=MAX_TIMEOUT.as_secs_f64();
            if !value
                .as_f64()
                .is_some_and(|seconds| range.contains(&seconds))
            {
                self.expected::<()>(
                    &join(pointer, "timeout_seconds"),
                    &timeout_expected(),
                    value,
                );
            }
        }
        let mut merged = step.handler_config.clone();
        merge(&mut merged, &map);
        let bytes = Value::Object(merged).to_string().len();
        if bytes > MAX_HANDLER_CONFIG_BYTES {
            let message = format!(
                "with it, the step's handler_config has {bytes} bytes as JSON, but at most {MAX_HANDLER_CONFIG_BYTES} are allowed"
            );
            self.problem(pointer, message);
        }
        map
    }

    fn backoff(
        &mut self,
        pointer: &str,
        value: &Value,
        step: &StepTemplate,
    ) -> BTreeMap<&'static str, f64> {
        let Some(map) = self.map(pointer, value) else {
            return BTreeMap::new();
        };
        self.refuse_unknown(pointer, map, &Backoff::FIELDS);
        let mut found = BTreeMap::new();
        let mut merged = step.backoff;
        for field in Backoff::FIELDS {
            let Some(value) = map.get(field) else {
                continue;
            };
            match value.as_f64().filter(|value| Backoff::fits(field, *value)) {
                Some(value) => {
                    found.insert(field, value);
                    merged
                        .field_mut(field)
                        .into_iter()
                        .for_each(|place| *place = value);
                }
                None => {
                    self.expected::<()>(&join(pointer, field), &Backoff::expected(field), value);
                }
            }
        }
        if merged.max_seconds < merged.base_seconds {
            let (base, max) = (merged.base_seconds, merged.max_seconds);
            self.problem(
                pointer,
                format!("expected `max_seconds` ({max}) to be at least `base_seconds` ({base})"),
            );
        }
        found
    }
}

/// The pointer of `key` in the value at `parent`, escaped as RFC 6901 demands.
fn join(parent: &str, key: &str) -> String {
    format!("{parent}/{}", key.replace('~', "~0").replace('/', "~1"))
}
