//! Reads and validates an adjustment; all problems are found at once.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::{Adjustment, StepAdjustment, merge};
use crate::backoff::Backoff;
use crate::limits::{
    MAX_ANNOTATIONS_BYTES, MAX_HANDLER_CONFIG_BYTES, MAX_PRIORITY, MAX_RETRY_LIMIT, MAX_TIMEOUT,
    MIN_TIMEOUT, timeout_expected,
};
use crate::step_index::StepIndex;
use crate::step_template::StepTemplate;
use crate::text::{did_you_mean, shorten};

/// The most problems that are listed for one adjustment.
const MAX_PROBLEMS: usize = 20;

const KNOWN: [&str; 3] = ["steps", "annotations", "priority"];
const KNOWN_OF_STEP: [&str; 6] = [
    "retry_limit",
    "default_retryable",
    "handler_config",
    "backoff",
    "annotations",
    "skip",
];

/// One problem of an adjustment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AdjustmentProblem {
    /// JSON pointer of the invalid value.
    pub pointer: String,
    pub message: String,
}

/// The steps of a template by their names.
pub(crate) struct StepNames<'t> {
    steps: &'t [StepTemplate],
    index: HashMap<&'t str, StepIndex>,
}

impl<'t> StepNames<'t> {
    pub fn of(steps: &'t [StepTemplate]) -> Self {
        let names = steps.iter().map(|step| step.name.as_str());
        // The first step of a name counts; a template with a second one is refused.
        let index = names.zip(StepIndex::all(steps.len())).rev().collect();
        StepNames { steps, index }
    }

    fn get(&self, name: &str) -> Option<(StepIndex, &'t StepTemplate)> {
        let index = *self.index.get(name)?;
        Some((index, self.steps.get(usize::from(index))?))
    }
}

pub(super) fn read(
    value: &Value,
    steps: &StepNames<'_>,
) -> Result<Adjustment, Vec<AdjustmentProblem>> {
    let mut reader = AdjustmentReader {
        problems: Vec::new(),
    };
    let adjustment = reader.adjustment(value, steps);
    if reader.problems.is_empty() {
        Ok(adjustment)
    } else {
        Err(reader.problems)
    }
}

struct AdjustmentReader {
    problems: Vec<AdjustmentProblem>,
}

impl AdjustmentReader {
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
            let hint = self.hint(key, known.iter().copied());
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

    fn adjustment(&mut self, value: &Value, steps: &StepNames<'_>) -> Adjustment {
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

    fn steps(
        &mut self,
        value: &Value,
        steps: &StepNames<'_>,
    ) -> BTreeMap<StepIndex, StepAdjustment> {
        let mut found = BTreeMap::new();
        for (name, value) in self.map("/steps", value).into_iter().flatten() {
            let pointer = join("/steps", name);
            let Some((index, step)) = steps.get(name) else {
                let names = steps.steps.iter().map(|step| step.name.as_str());
                let hint = self.hint(name, names);
                self.problem(
                    pointer,
                    format!("there is no step `{}`{hint}", shorten(name)),
                );
                continue;
            };
            found.insert(index, self.step(&pointer, value, step));
        }
        found
    }

    /// As [`did_you_mean`], for the problems that are listed: each search visits all candidates.
    fn hint<'c>(&self, word: &str, candidates: impl IntoIterator<Item = &'c str>) -> String {
        if self.problems.len() < MAX_PROBLEMS {
            did_you_mean(word, candidates)
        } else {
            String::new()
        }
    }

    fn step(&mut self, pointer: &str, value: &Value, step: &StepTemplate) -> StepAdjustment {
        let Some(map) = self.map(pointer, value) else {
            return StepAdjustment::default();
        };
        self.refuse_unknown(pointer, map, &KNOWN_OF_STEP);
        let at = |key: &str| join(pointer, key);
        let adjustment = StepAdjustment {
            name: step.name.clone(),
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
        // `apply` gives a step that is not retryable the limit 1, so another limit would be ignored
        // silently.
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
        range: RangeInclusive<i64>,
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
        // The handler receives the merged configuration, which may be too large although each part
        // fits.
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
        // The bounds are compared after the merge, since the template may supply one of them.
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
    // `~` first: afterwards it would escape the `~` of `~1` again.
    format!("{parent}/{}", key.replace('~', "~0").replace('/', "~1"))
}
