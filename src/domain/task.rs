//! The state machine of a task.

use strum::{EnumString, IntoStaticStr, VariantArray};

pub use tasker_template::MAX_PRIORITY;

use super::event::EventType;

/// The longest idempotency key and correlation id, in bytes.
pub const MAX_KEY_BYTES: usize = 255;
/// The largest context, in bytes of JSON.
pub const MAX_CONTEXT_BYTES: usize = 1 << 20;
/// The largest annotations object, in bytes of JSON.
pub const MAX_ANNOTATIONS_BYTES: usize = 16 << 10;
/// The most tasks in one `SubmitTasks`.
pub const MAX_TASKS_PER_SUBMIT: usize = 1_000;
/// The most bytes of contexts in one `SubmitTasks`.
pub const MAX_SUBMIT_BYTES: usize = 8 << 20;

/// State of a task.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, EnumString, IntoStaticStr, strum::Display, VariantArray,
)]
#[strum(serialize_all = "snake_case")]
pub enum TaskState {
    /// No step has started.
    Pending,
    /// Some step can run, is running, or waits for a retry.
    InProgress,
    /// Final: every step is done.
    Complete,
    /// A step failed for good and no other can run, or the task's deadline passed. Final unless an
    /// operator reopens or resolves the task.
    Error,
    /// Final: the task was cancelled.
    Cancelled,
    /// Final: it failed, and an operator settled it.
    ResolvedManually,
}

/// An event of a task's state machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TaskEvent {
    /// Its first step was claimed.
    Start,
    /// Its last step is done.
    Complete,
    /// A step failed for good, and no step of the task can run, is running, or waits for a retry.
    Fail,
    /// The task is cancelled.
    Cancel,
    /// Its deadline passed.
    Expire,
    /// An operator retries, resolves or skips a failed step.
    Reopen,
    /// An operator settles it as it is.
    Resolve,
}

/// The state does not allow the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a task that is {state} cannot {event:?}")]
pub struct IllegalTaskTransition {
    pub state: TaskState,
    pub event: TaskEvent,
}

impl TaskState {
    /// The final state that this event records.
    pub fn after_event(event: EventType) -> Option<Self> {
        match event {
            EventType::TaskCompleted => Some(Self::Complete),
            EventType::TaskFailed => Some(Self::Error),
            EventType::TaskCancelled => Some(Self::Cancelled),
            EventType::TaskResolved => Some(Self::ResolvedManually),
            _ => None,
        }
    }

    /// The state after `event`. Total: each pair of state and event has a state or an error, and
    /// the error names both.
    pub fn after(self, event: TaskEvent) -> Result<Self, IllegalTaskTransition> {
        use {TaskEvent as E, TaskState as S};
        Ok(match (self, event) {
            (S::Pending, E::Start) => S::InProgress,
            // A pending task has to start first, so that each log of a task has its `task.started`.
            (S::InProgress, E::Complete) => S::Complete,
            (S::InProgress, E::Fail) => S::Error,
            (S::Pending | S::InProgress, E::Cancel) => S::Cancelled,
            (S::Pending | S::InProgress, E::Expire) => S::Error,
            (S::Error, E::Reopen) => S::InProgress,
            (S::Error, E::Resolve) => S::ResolvedManually,
            (state, event) => return Err(IllegalTaskTransition { state, event }),
        })
    }

    /// Whether no further event can happen to the task, except an operator's order about a failed
    /// one.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Complete | Self::Error | Self::Cancelled | Self::ResolvedManually
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
    use {TaskEvent as E, TaskState as S};

    #[test]
    fn transition_of_every_state_and_event_is_as_specified() {
        let events = [
            E::Start,
            E::Complete,
            E::Fail,
            E::Cancel,
            E::Expire,
            E::Reopen,
            E::Resolve,
        ];
        let expected: [[Option<S>; 7]; 6] = [
            [
                Some(S::InProgress),
                None,
                None,
                Some(S::Cancelled),
                Some(S::Error),
                None,
                None,
            ],
            [
                None,
                Some(S::Complete),
                Some(S::Error),
                Some(S::Cancelled),
                Some(S::Error),
                None,
                None,
            ],
            [None; 7],
            [
                None,
                None,
                None,
                None,
                None,
                Some(S::InProgress),
                Some(S::ResolvedManually),
            ],
            [None; 7],
            [None; 7],
        ];
        for (state, row) in S::VARIANTS.iter().zip(expected) {
            for (event, want) in events.into_iter().zip(row) {
                assert_eq!(state.after(event).ok(), want, "{state} after {event:?}");
            }
            assert_eq!(
                state.is_final(),
                events[..5].iter().all(|e| state.after(*e).is_err())
            );
            assert_eq!(S::from_name(state.as_str()), Some(*state));
        }
    }
}
