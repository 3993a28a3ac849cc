//! The answer of a planner: the changes to the steps that run after it.

use crate::adjustment::{Adjustment, AdjustmentProblem};
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
        let adjustment = match Adjustment::read(&value, &self.steps) {
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
