//! `overrides`: changes to the tasks that meet a condition.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::parse_cache::ParseCache;
use crate::adjustment::{Adjustment, StepNames};
use crate::expression::{EvaluationError, Expression, Scope, Type, Values};
use crate::interpolation::Interpolation;
use crate::json_text;
use crate::limits::{MAX_ANNOTATIONS_BYTES, MAX_OVERRIDES};
use crate::step_template::StepTemplate;
use crate::yaml::fields::{Field, Fields, OWN_KEYS};
use crate::yaml::problem::Problems;

/// A condition and the changes that apply when it is true.
#[derive(Debug, Clone, PartialEq)]
pub struct Override {
    /// `when`.
    pub condition: Expression,
    /// The changes as written, with `${...}` unevaluated.
    pub changes: Adjustment,
    /// The parsed strings of annotations that contain `${...}`.
    texts: BTreeMap<String, Interpolation>,
}

impl Override {
    /// The changes for a task; `None` when the condition is false.
    ///
    /// # Errors
    /// As [`Expression::holds`].
    pub fn adjustment(&self, values: &Values<'_>) -> Result<Option<Adjustment>, EvaluationError> {
        if !self.condition.holds(values).map_err(|why| why.at("when"))? {
            return Ok(None);
        }
        // A copy: all tasks of the template share the unevaluated changes.
        let mut changes = self.changes.clone();
        self.fill(&mut changes.annotations, values)?;
        for step in changes.steps.values_mut() {
            self.fill(&mut step.annotations, values)?;
        }
        Ok(Some(changes))
    }

    fn fill(
        &self,
        notes: &mut Map<String, Value>,
        values: &Values<'_>,
    ) -> Result<(), EvaluationError> {
        // Without expressions, the annotations were checked at the registration.
        if self.texts.is_empty() {
            return Ok(());
        }
        let wrong = |why: EvaluationError| why.at("annotations");
        notes
            .values_mut()
            .try_for_each(|value| self.put(value, values))
            .map_err(wrong)?;
        // The inserted values come from the client, so size and numbers are checked only now.
        let text = Value::Object(notes.clone()).to_string();
        json_text::check_document(&text, MAX_ANNOTATIONS_BYTES)
            .map_err(|error| wrong(error.message.into()))
    }

    fn put(&self, value: &mut Value, values: &Values<'_>) -> Result<(), EvaluationError> {
        match value {
            Value::String(text) => {
                // Found by its text. An inserted value is data: it is not searched for expressions
                // again.
                if let Some(found) = self.texts.get(text) {
                    *value = found.value(values)?;
                }
                Ok(())
            }
            Value::Array(items) => items.iter_mut().try_for_each(|item| self.put(item, values)),
            Value::Object(map) => map
                .values_mut()
                .try_for_each(|value| self.put(value, values)),
            _ => Ok(()),
        }
    }
}

/// Reads the list.
pub(super) fn read(
    field: &Field<'_>,
    steps: &[StepTemplate],
    context: &Type,
    cache: &mut ParseCache,
    problems: &mut Problems,
) -> Vec<Override> {
    let items = field
        .list("a list of overrides", problems)
        .unwrap_or_default();
    // None is read then: each could have many problems of its own.
    if items.len() > MAX_OVERRIDES {
        let message = format!(
            "the template has {} overrides, but at most {MAX_OVERRIDES} are allowed",
            items.len()
        );
        field.problem(message, problems);
        return Vec::new();
    }
    let scope = Scope {
        context,
        results: None,
    };
    let names = StepNames::of(steps);
    items
        .iter()
        .filter_map(|item| read_one(item, &names, &scope, cache, problems))
        .collect()
}

fn read_one(
    item: &Field<'_>,
    steps: &StepNames<'_>,
    scope: &Scope<'_>,
    cache: &mut ParseCache,
    problems: &mut Problems,
) -> Option<Override> {
    let fields = Fields::of(
        item.node,
        &item.path,
        "an override (a mapping with `when`)",
        problems,
    )?;
    let when = fields.get("when");
    if when.is_none() {
        fields.missing("when", problems);
    }
    let condition = when.and_then(|field| cache.condition(&field, scope, problems));
    // The JSON form has null in place of a broken value, which would be reported a second time.
    if item.node.is_broken() {
        return None;
    }
    warn_of_correlation_ids(&fields, problems);
    let mut value = item.node.to_json();
    value
        .as_object_mut()?
        .retain(|key, _| key != "when" && !key.starts_with(OWN_KEYS));
    let changes = match Adjustment::read(&value, steps) {
        Ok(changes) => changes,
        Err(found) => {
            for problem in found {
                let (pos, path) = item.node.locate(&problem.pointer, &item.path);
                problems.add(pos, path, problem.message);
            }
            return None;
        }
    };
    if value.as_object().is_some_and(Map::is_empty) {
        item.problem(
            "the override changes nothing; expected `steps`, `annotations` or `priority`",
            problems,
        );
    }
    let mut texts = BTreeMap::new();
    let of_steps = changes.steps.values().map(|step| {
        (
            format!("/steps/{}/annotations", escape(&step.name)),
            &step.annotations,
        )
    });
    for (pointer, notes) in of_steps.chain([("/annotations".to_owned(), &changes.annotations)]) {
        let mut reader = Texts {
            item,
            scope,
            cache,
            problems,
            texts: &mut texts,
        };
        notes
            .iter()
            .for_each(|(key, value)| reader.read(&format!("{pointer}/{}", escape(key)), value));
    }
    Some(Override {
        // Required last, so that the problems of the changes are reported together with its own.
        condition: condition?,
        changes,
        texts,
    })
}

/// Adds a warning for a correlation id in the override's own annotations or in those of its steps.
fn warn_of_correlation_ids(fields: &Fields<'_>, problems: &mut Problems) {
    let quiet = &mut Problems::default();
    let steps = fields
        .get("steps")
        .and_then(|field| Fields::of(field.node, &field.path, "", quiet));
    let of_steps = steps.iter().flat_map(Fields::all).filter_map(|(_, field)| {
        Fields::of(field.node, &field.path, "", &mut Problems::default())?.get("annotations")
    });
    of_steps
        .chain(fields.get("annotations"))
        .for_each(|notes| notes.warn_of_correlation_id(problems));
}

/// Escapes a name for a JSON pointer.
fn escape(name: &str) -> String {
    // `~` first: afterwards it would escape the `~` of `~1` again.
    name.replace('~', "~0").replace('/', "~1")
}

/// Reads the strings in annotations.
struct Texts<'r, 'n> {
    item: &'r Field<'n>,
    scope: &'r Scope<'r>,
    cache: &'r mut ParseCache,
    problems: &'r mut Problems,
    texts: &'r mut BTreeMap<String, Interpolation>,
}

impl Texts<'_, '_> {
    fn read(&mut self, pointer: &str, value: &Value) {
        match value {
            Value::String(text) => self.text(pointer, text),
            Value::Array(items) => {
                items
                    .iter()
                    .enumerate()
                    .for_each(|(index, item)| self.read(&format!("{pointer}/{index}"), item));
            }
            Value::Object(map) => {
                map.iter().for_each(|(key, value)| {
                    self.read(&format!("{pointer}/{}", escape(key)), value);
                });
            }
            _ => {}
        }
    }

    fn text(&mut self, pointer: &str, text: &str) {
        let found =
            Interpolation::read(text, |source| self.cache.parsed(source)?.value(self.scope));
        match found {
            Ok(Some(found)) => drop(self.texts.insert(text.to_owned(), found)),
            Ok(None) => {}
            Err(problem) => {
                let (pos, path) = self.item.node.locate(pointer, &self.item.path);
                self.problems.add_inside(pos, &path, problem);
            }
        }
    }
}
