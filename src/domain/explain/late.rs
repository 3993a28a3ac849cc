//! A worker's answer to an attempt that had already ended.

use std::time::SystemTime;

use super::words;
use crate::domain::attempt::OutcomeKind;

/// The latest late answer of a step, and the recorded end of its attempt.
#[derive(Clone, Copy, Debug)]
pub struct LateFacts {
    pub at: SystemTime,
    /// The outcome according to the answer.
    pub outcome: OutcomeKind,
    pub attempt: u32,
    pub ended_at: SystemTime,
    pub ended_as: OutcomeKind,
}

impl LateFacts {
    /// One sentence about the answer.
    pub fn message(&self) -> String {
        format!(
            "a worker sent a result of attempt {} ({}) {} after its end ({}); the result has no effect",
            self.attempt,
            self.outcome.as_str(),
            words(self.at.duration_since(self.ended_at).unwrap_or_default()),
            self.ended_as.as_str(),
        )
    }
}
