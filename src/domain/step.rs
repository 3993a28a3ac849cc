//! The state machine of a step.

use strum::{EnumString, IntoStaticStr, VariantArray};

/// State of a step, in the order of its life.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, EnumString, IntoStaticStr, strum::Display, VariantArray,
)]
#[strum(serialize_all = "snake_case")]
pub enum StepState {
    /// A parent is not done yet.
    Pending,
    /// Every parent is done; the step waits for a worker.
    Ready,
    /// A worker holds the lease of the current attempt.
    InProgress,
    /// The last attempt failed and the next one has a time.
    WaitingForRetry,
    /// Final: an attempt succeeded.
    Complete,
    /// Failed for good. Final unless an operator retries, resolves or skips the step.
    Error,
    /// Final: the task was cancelled first.
    Cancelled,
    /// Final: its condition is false, or an operator skipped it. Its children receive no result.
    Skipped,
    /// Final: an operator gave the result that its children receive.
    ResolvedManually,
}

/// An event of a step's state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepEvent {
    /// The last parent is done.
    Unlock,
    /// A worker received the lease of a new attempt.
    Claim,
    /// The attempt succeeded.
    Succeed,
    /// The attempt failed and another one is allowed.
    Retry,
    /// The attempt failed and no other one is allowed.
    Fail,
    /// The infrastructure lost the attempt, or it never started.
    GiveBack,
    /// The task was cancelled.
    Cancel,
    /// Its condition is false, or an operator skips it.
    Skip,
    /// An operator gives its result.
    Resolve,
    /// An operator retries it.
    Reopen,
}

/// The state does not allow the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a step that is {state} cannot {event:?}")]
pub struct IllegalStepTransition {
    pub state: StepState,
    pub event: StepEvent,
}

impl StepState {
    /// The state after `event`. Total: each pair of state and event has a state or an error, and
    /// the error names both.
    pub fn after(self, event: StepEvent) -> Result<Self, IllegalStepTransition> {
        use {StepEvent as E, StepState as S};
        Ok(match (self, event) {
            (S::Pending, E::Unlock) => S::Ready,
            (S::Ready | S::WaitingForRetry, E::Claim) => S::InProgress,
            (S::InProgress, E::Succeed) => S::Complete,
            (S::InProgress, E::Retry) => S::WaitingForRetry,
            (S::InProgress, E::Fail) => S::Error,
            (S::InProgress, E::GiveBack) => S::Ready,
            (S::Pending | S::Ready | S::InProgress | S::WaitingForRetry, E::Cancel) => S::Cancelled,
            // A running step takes neither order, since its own result is under way.
            (S::Pending | S::Ready | S::WaitingForRetry | S::Error, E::Skip) => S::Skipped,
            (S::Pending | S::Ready | S::WaitingForRetry | S::Error, E::Resolve) => {
                S::ResolvedManually
            }
            (S::Error, E::Reopen) => S::Ready,
            (state, event) => return Err(IllegalStepTransition { state, event }),
        })
    }

    /// Whether no further event can happen to the step, except an operator's order about a failed
    /// one.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Error | Self::Cancelled) || self.is_done()
    }

    /// Whether the step counts as done for its children.
    pub fn is_done(self) -> bool {
        matches!(
            self,
            Self::Complete | Self::Skipped | Self::ResolvedManually
        )
    }

    /// The name in the database and in documents.
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The state with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        name.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use {StepEvent as E, StepState as S};

    /// The order of the columns below.
    const EVENTS: [E; 10] = [
        E::Unlock,
        E::Claim,
        E::Succeed,
        E::Retry,
        E::Fail,
        E::GiveBack,
        E::Cancel,
        E::Skip,
        E::Resolve,
        E::Reopen,
    ];

    #[test]
    fn transition_of_every_state_and_event_is_as_specified() {
        let row = |text: &str| -> Vec<Option<S>> {
            text.split_whitespace()
                .map(|name| (name != "-").then(|| S::from_name(name).unwrap()))
                .collect()
        };
        let waits = "- in_progress - - - - cancelled skipped resolved_manually -";
        let never = "- - - - - - - - - -";
        let expected = [
            "ready - - - - - cancelled skipped resolved_manually -",
            waits,
            "- - complete waiting_for_retry error ready cancelled - - -",
            waits,
            never,
            "- - - - - - - skipped resolved_manually ready",
            never,
            never,
            never,
        ];
        for (state, expected) in S::VARIANTS.iter().zip(expected) {
            for (event, want) in EVENTS.into_iter().zip(row(expected)) {
                assert_eq!(state.after(event).ok(), want, "{state} after {event:?}");
            }
        }
    }

    #[test]
    fn final_state_changes_only_by_an_operator_and_a_refusal_names_state_and_event() {
        for state in S::VARIANTS {
            let by_itself = &EVENTS[..7];
            assert_eq!(
                state.is_final(),
                by_itself.iter().all(|e| state.after(*e).is_err()),
                "{state}"
            );
        }
        assert_eq!(
            S::Complete.after(E::Claim).unwrap_err().to_string(),
            "a step that is complete cannot Claim"
        );
    }

    #[test]
    fn state_names_round_trip() {
        for state in S::VARIANTS {
            assert_eq!(S::from_name(state.as_str()), Some(*state));
        }
    }
}
