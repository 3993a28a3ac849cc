//! The state machine of a step.

use std::fmt;

/// Where a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StepState {
    /// A parent is not complete yet.
    Pending,
    /// Every parent is complete; it waits for a worker.
    Ready,
    /// A worker holds the lease of the current attempt.
    InProgress,
    /// The last attempt failed and the next one has a time.
    WaitingForRetry,
    /// Final: an attempt succeeded.
    Complete,
    /// Final: failed for good.
    Error,
    /// Final: the task was cancelled first.
    Cancelled,
}

/// What can happen to a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepEvent {
    /// The last parent completed.
    Unlock,
    /// A worker got the lease of a new attempt.
    Claim,
    /// The attempt succeeded.
    Succeed,
    /// The attempt failed and another one is allowed.
    Retry,
    /// The attempt failed and no other one is allowed.
    Fail,
    /// The attempt was lost to the infrastructure or never started.
    GiveBack,
    /// The task was cancelled.
    Cancel,
}

/// An event that the state does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a step that is {state} cannot {event:?}")]
pub struct IllegalStepTransition {
    pub state: StepState,
    pub event: StepEvent,
}

impl StepState {
    /// All states, in the order of a step's life.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Ready,
        Self::InProgress,
        Self::WaitingForRetry,
        Self::Complete,
        Self::Error,
        Self::Cancelled,
    ];

    /// The state after `event`. Total: every pair has an answer, and the error names both.
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
            (state, event) => return Err(IllegalStepTransition { state, event }),
        })
    }

    /// Whether nothing can happen to the step any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Complete | Self::Error | Self::Cancelled)
    }

    /// The name in the database and in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ready => "ready",
            Self::InProgress => "in_progress",
            Self::WaitingForRetry => "waiting_for_retry",
            Self::Complete => "complete",
            Self::Error => "error",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|s| s.as_str() == name)
    }
}

impl fmt::Display for StepState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use {StepEvent as E, StepState as S};

    const EVENTS: [E; 7] = [E::Unlock, E::Claim, E::Succeed, E::Retry, E::Fail, E::GiveBack, E::Cancel];

    #[test]
    fn every_pair_of_state_and_event() {
        // Rows: states in the order of ALL; columns: EVENTS. `None` is refused.
        let expected: [[Option<S>; 7]; 7] = [
            [Some(S::Ready), None, None, None, None, None, Some(S::Cancelled)],
            [None, Some(S::InProgress), None, None, None, None, Some(S::Cancelled)],
            [
                None,
                None,
                Some(S::Complete),
                Some(S::WaitingForRetry),
                Some(S::Error),
                Some(S::Ready),
                Some(S::Cancelled),
            ],
            [None, Some(S::InProgress), None, None, None, None, Some(S::Cancelled)],
            [None; 7],
            [None; 7],
            [None; 7],
        ];
        for (state, row) in S::ALL.into_iter().zip(expected) {
            for (event, want) in EVENTS.into_iter().zip(row) {
                assert_eq!(state.after(event).ok(), want, "{state} after {event:?}");
            }
        }
    }

    #[test]
    fn final_states_refuse_every_event_and_the_error_names_both() {
        for state in S::ALL {
            assert_eq!(state.is_final(), EVENTS.iter().all(|e| state.after(*e).is_err()), "{state}");
        }
        assert_eq!(S::Complete.after(E::Claim).unwrap_err().to_string(), "a step that is complete cannot Claim");
    }

    #[test]
    fn names_round_trip() {
        for state in S::ALL {
            assert_eq!(S::from_name(state.as_str()), Some(state));
        }
    }
}
