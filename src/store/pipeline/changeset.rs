//! All writes of one engine transaction.
//!
//! The engine locks rows, decides, and fills a [`Changes`]; [`Pipeline::commit`] sends all of it, with
//! the `COMMIT`, in one round trip.

use uuid::Uuid;

#[cfg(doc)]
use super::Pipeline;
use super::{
    AdmissionCheck, Claim, DroppedKey, Ended, Event, GivenBack, Late, Mark, NewLive, NewTask,
    Planned, Retry, SetStep, TaskPause, TaskUpdate, Throttle,
};

/// The writes of one transaction.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub new_tasks: Vec<NewTask>,
    /// Idempotency keys to release, because the tasks that took them will not be stored.
    pub dropped_keys: Vec<DroppedKey>,
    pub ended: Vec<Ended>,
    pub retries: Vec<Retry>,
    pub given_back: Vec<GivenBack>,
    pub set_steps: Vec<SetStep>,
    /// Failed steps that are retried; each is in `new_live` too.
    pub reopened: Vec<(Uuid, i16)>,
    pub new_live: Vec<NewLive>,
    pub claims: Vec<Claim>,
    /// In ascending order of their ids.
    pub tasks: Vec<TaskUpdate>,
    pub task_pauses: Vec<TaskPause>,
    pub marks: Vec<Mark>,
    pub planned: Vec<Planned>,
    /// Tasks whose deadline is no longer watched.
    pub expired: Vec<Uuid>,
    pub late: Vec<Late>,
    pub events: Vec<Event>,
    /// In ascending order of their ids.
    pub admissions: Vec<AdmissionCheck>,
    /// In ascending order of their ids.
    pub throttles: Vec<Throttle>,
    /// Payload that notifies the other servers when the transaction commits.
    pub notify: Option<String>,
}

impl Changes {
    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.new_tasks.is_empty()
            && self.dropped_keys.is_empty()
            && self.ended.is_empty()
            && self.retries.is_empty()
            && self.given_back.is_empty()
            && self.set_steps.is_empty()
            && self.new_live.is_empty()
            && self.claims.is_empty()
            && self.tasks.is_empty()
            && self.task_pauses.is_empty()
            && self.expired.is_empty()
            && self.late.is_empty()
            && self.events.is_empty()
    }
}
