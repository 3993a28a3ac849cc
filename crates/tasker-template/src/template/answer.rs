//! The answer of a planner: the changes to the steps that run after it.

use crate::adjustment::{Adjustment, AdjustmentProblem, StepNames};
use crate::budget::{Budget, TooCostly};
use crate::json_text;
use crate::limits::PLANNER;
use crate::template::Template;

/// Largest answer of a planner, in bytes of JSON.
pub const MAX_ADJUSTMENT_BYTES: usize = 256 * 1024;

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

impl Template {
    /// Reads and validates a planner's answer.
    ///
    /// # Errors
    /// All problems, each with the JSON pointer of its place, or [`TooCostly`] if the budget is
    /// spent.
    pub fn adjustment(&self, answer: &str, budget: &Budget) -> Result<Adjustment, AdjustmentError> {
        let wrong = AdjustmentError::Problems;
        // Pays for three passes over the text before the first: it is parsed, compared with the
        // template's steps, and serialised again.
        budget.spend(answer.len() as u64 / 2)?;
        let value = json_text::parse(answer, MAX_ADJUSTMENT_BYTES)
            .map_err(|error| wrong(vec![error.to_string()]))?;
        let mut problems = Vec::new();
        if self.planner && value.pointer(&format!("/steps/{PLANNER}")).is_some() {
            let message = format!("the step `{PLANNER}` has run before its answer applies");
            problems.push(AdjustmentProblem {
                pointer: format!("/steps/{PLANNER}"),
                message,
            });
        }
        let adjustment = match Adjustment::read(&value, &StepNames::of(&self.steps)) {
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
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::settings::Settings;
    use crate::step_index::StepIndex;

    fn template(steps: usize) -> Template {
        let steps: String = (0..steps)
            .map(|step| format!("- {{name: a_long_step_name_{step:04}, handler: h}}\n"))
            .collect();
        Template::parse(&format!("name: t\nstep_templates:\n{steps}"), "").expect("valid")
    }

    /// A search of each name among all steps, and of each similar one, would take minutes.
    #[test]
    fn largest_answer_is_read_in_time() {
        let template = template(1_000);
        let names = |word: &str| -> String {
            let entries: Vec<String> = (0..8_000)
                .map(|step| format!("\"{word}{step:04}\":{{}}"))
                .collect();
            format!("{{\"steps\":{{{}}}}}", entries.join(","))
        };
        let begun = Instant::now();
        let unknown = template.adjustment(&names("a_long_step_nam_"), &Budget::new());
        let Err(AdjustmentError::Problems(problems)) = unknown else {
            panic!("problems")
        };
        assert_eq!(problems.len(), 20);
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{:?}",
            begun.elapsed()
        );
    }

    #[test]
    fn origins_of_many_settings_are_found_in_time() {
        let template = template(1);
        let config = |first: usize| -> String {
            let entries: Vec<String> = (first..first + 4_000)
                .map(|key| format!("\"k{key}\":1"))
                .collect();
            let entries = entries.join(",");
            format!(
                "{{\"steps\":{{\"a_long_step_name_0000\":{{\"handler_config\":{{{entries}}}}}}}}}"
            )
        };
        let mut settings = Settings::default();
        for (origin, first) in [("first", 0), ("second", 2_000)] {
            let read = template.adjustment(&config(first), &Budget::new());
            settings.push(origin, read.expect("valid"));
        }
        let begun = Instant::now();
        let origins = settings.origins(&template, StepIndex::FIRST);
        assert_eq!(
            (
                origins.len(),
                origins[0].1.as_str(),
                origins[2_000].1.as_str()
            ),
            (6_000, "first", "second")
        );
        assert_eq!(origins[5_999].0, "handler_config.k5999");
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "{:?}",
            begun.elapsed()
        );
    }
}
