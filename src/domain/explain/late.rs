//! An answer that came after its attempt had ended.

use std::time::SystemTime;

use super::words;
use crate::domain::attempt::OutcomeKind;

/// The latest such answer of a step, and what had become of its attempt.
#[derive(Clone, Copy, Debug)]
pub struct LateFacts {
    pub at: SystemTime,
    /// How the attempt went, by the answer.
    pub outcome: OutcomeKind,
    pub attempt: u32,
    pub ended_at: SystemTime,
    pub ended_as: OutcomeKind,
}

impl LateFacts {
    /// One sentence.
    pub fn message(&self) -> String {
        format!(
            "a worker answered attempt {} ({}) {} after it had ended ({}); the answer has no effect",
            self.attempt,
            self.outcome.as_str(),
            words(self.at.duration_since(self.ended_at).unwrap_or_default()),
            self.ended_as.as_str(),
        )
    }
}
