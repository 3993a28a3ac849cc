//! The adjustments in force for one task, and the task's steps with them applied.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use crate::adjustment::{Adjustment, StepAdjustment, StepNames};
use crate::budget::Budget;
use crate::expression::{EvaluationError, Values};
use crate::json_text;
use crate::step_index::StepIndex;
use crate::step_template::StepTemplate;
use crate::template::Template;

/// Largest total of a task's overrides, in bytes of JSON.
pub const MAX_SETTINGS_BYTES: usize = 256 * 1024;

/// Adjustments in the order of application: a later one goes over an earlier one.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings(Vec<(String, Adjustment)>);

impl Settings {
    /// The settings that the template's overrides give a task with this context. `task` has the
    /// fields that expressions may use.
    ///
    /// # Errors
    /// The override that cannot be evaluated and the reason, or overrides beyond
    /// [`MAX_SETTINGS_BYTES`].
    pub fn of(
        template: &Template,
        context: &Value,
        task: &Value,
        budget: &Budget,
    ) -> Result<Settings, EvaluationError> {
        let values = Values::of_task(context, task, budget);
        let mut settings = Settings::default();
        for (index, item) in template.overrides.iter().enumerate() {
            let origin = format!("overrides[{index}]");
            let adjustment = item.adjustment(&values).map_err(|why| why.at(&origin))?;
            adjustment
                .into_iter()
                .for_each(|adjustment| settings.push(&origin, adjustment));
        }
        // Most tasks have no adjustments, so only others are serialised for the check.
        let bytes = if settings.is_empty() {
            0
        } else {
            settings.to_json().len()
        };
        if bytes > MAX_SETTINGS_BYTES {
            let why = format!(
                "the overrides have {bytes} bytes, but at most {MAX_SETTINGS_BYTES} are allowed"
            );
            return Err(why.into());
        }
        Ok(settings)
    }

    /// Appends an adjustment with its origin.
    pub fn push(&mut self, origin: &str, adjustment: Adjustment) {
        self.0.push((origin.to_owned(), adjustment));
    }

    /// Whether there are no adjustments.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The JSON text that is stored with the task.
    pub fn to_json(&self) -> String {
        let entry = |(origin, adjustment): &(String, Adjustment)| json!({"origin": origin, "changes": adjustment.to_value()});
        Value::Array(self.0.iter().map(entry).collect()).to_string()
    }

    /// Reads the text of [`Settings::to_json`] for a task of this template.
    ///
    /// # Errors
    /// The first problem of the text.
    pub fn from_json(text: &str, template: &Template) -> Result<Settings, String> {
        // The server wrote this text, so its size is not checked again.
        let value = json_text::parse(text, usize::MAX).map_err(|error| error.to_string())?;
        let entries = value.as_array().ok_or("expected a list")?;
        let names = StepNames::of(&template.steps);
        let read = entries.iter().map(|entry| read_entry(entry, &names));
        Ok(Settings(read.collect::<Result<_, _>>()?))
    }

    /// The step with its adjustments; `None` if the template's step applies unchanged.
    pub fn step(&self, template: &Template, index: StepIndex) -> Option<StepTemplate> {
        let mut changes = self
            .of_step(index)
            .map(|(_, step)| step)
            .filter(|step| step.changes_step())
            .peekable();
        // Most steps have no changes, and are not copied.
        changes.peek()?;
        let mut step = template.steps.get(usize::from(index))?.clone();
        changes.for_each(|change| change.apply(&mut step));
        Some(step)
    }

    /// Whether an adjustment skips the step, whatever its condition; the last one decides.
    pub fn skips(&self, index: StepIndex) -> bool {
        self.of_step(index)
            .filter_map(|(_, step)| step.skip)
            .last()
            .unwrap_or(false)
    }

    /// The settings of a step that differ from the template's, with the origin of each, in the
    /// order of their adjustments.
    pub fn origins(&self, template: &Template, index: StepIndex) -> Vec<(String, String)> {
        if usize::from(index) >= template.steps.len() {
            return Vec::new();
        }
        // From the last adjustment to the first: it goes over the earlier ones, so its origin alone
        // is true.
        let mut known = HashSet::new();
        let mut origins = Vec::new();
        let adjustments: Vec<_> = self.of_step(index).collect();
        for (origin, step) in adjustments.into_iter().rev() {
            for setting in step.settings().into_iter().rev() {
                if known.insert(setting.clone()) {
                    origins.push((setting, origin.to_owned()));
                }
            }
        }
        origins.reverse();
        origins
    }

    /// The annotations for the task.
    pub fn annotations(&self) -> Map<String, Value> {
        self.0
            .iter()
            .flat_map(|(_, adjustment)| adjustment.annotations.clone())
            .collect()
    }

    /// The task's priority, if an adjustment changes it.
    pub fn priority(&self) -> Option<i16> {
        self.0
            .iter()
            .filter_map(|(_, adjustment)| adjustment.priority)
            .next_back()
    }

    fn of_step(&self, index: StepIndex) -> impl Iterator<Item = (&str, &StepAdjustment)> {
        self.0.iter().filter_map(move |(origin, adjustment)| {
            Some((origin.as_str(), adjustment.step(index)?))
        })
    }
}

/// An entry of [`Settings::to_json`]: the origin and the changes.
fn read_entry(entry: &Value, names: &StepNames<'_>) -> Result<(String, Adjustment), String> {
    let origin = entry
        .get("origin")
        .and_then(Value::as_str)
        .ok_or("an entry has no origin")?;
    let changes = entry.get("changes").ok_or("an entry has no changes")?;
    let adjustment = Adjustment::read(changes, names).map_err(|problems| {
        let first = problems.first();
        first
            .map(|p| format!("{origin}{}: {}", p.pointer, p.message))
            .unwrap_or_default()
    })?;
    Ok((origin.to_owned(), adjustment))
}
