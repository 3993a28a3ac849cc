//! All writes of one engine transaction.
//!
//! The engine locks rows, decides, and fills a [`Changes`];
//! [`Hot::commit`](super::hot::Hot::commit) sends all of it, with the `COMMIT`, in one round trip.
//! The frequent statements are in `writes`, the rare ones in `orders`.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tasker_template::Backoff;
use uuid::Uuid;

use crate::domain::{
    attempt::{Failure, OutcomeKind},
    event::EventType,
    lease::Lease,
    progress::Progress,
    step::StepState,
    task::TaskState,
};

/// A task to insert, with its steps.
#[derive(Clone, Debug)]
pub struct NewTask {
    pub task_id: Uuid,
    pub template_id: i32,
    /// `Pending`, or `InProgress` when the same transaction claims or skips a root step, or
    /// `Complete` when all steps are skipped.
    pub state: TaskState,
    pub priority: i16,
    pub steps_total: i16,
    pub steps_live: i16,
    pub steps_done: Vec<u8>,
    /// A root whose condition could not be evaluated.
    pub failed_step: Option<i16>,
    pub correlation_id: String,
    pub traceparent: Option<String>,
    pub annotations: String,
    pub context: String,
    /// The overrides as JSON.
    pub settings: Option<String>,
    pub not_before: Option<SystemTime>,
    pub expires_at: Option<SystemTime>,
    /// Size of its documents.
    pub bytes: i32,
}

/// A lease to write: the right to one attempt.
#[derive(Clone, Copy, Debug)]
pub struct Grant {
    pub worker_id: Uuid,
    pub nonce: i64,
    /// Time-out of the attempt.
    pub timeout: Duration,
    /// The quota share of a limited service that the attempt uses, or [`PROBE`].
    pub share_id: Option<i32>,
}

/// In place of a quota share: the attempt is a probe of a half-open circuit. No share has this id.
pub const PROBE: i32 = 0;

/// The admission version and the quota share on which the claims of a transaction rely for a
/// service; if either has changed, nothing is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionCheck {
    pub service_id: i32,
    pub version: i64,
    pub share: Option<UsedShare>,
}

/// A quota share that claims use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsedShare {
    pub share_id: i32,
    pub term: i64,
    /// Number of probes that the claims consume; 0 for a concurrency limit, whose share stays with
    /// the server.
    pub spent: i32,
}

/// A service that throttles its callers by `retry_after`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throttle {
    pub service_id: i32,
    pub seconds: f64,
}

/// A step that comes into play: a root of a new task, a step whose last parent has completed, or a
/// failed step that an operator retries.
#[derive(Clone, Debug)]
pub struct NewLive {
    pub task_id: Uuid,
    pub step: i16,
    pub template_id: i32,
    pub lane_id: i32,
    pub priority: i16,
    /// The earlier attempts of a step that an operator retries.
    pub past: Option<Past>,
    /// Time-out of an attempt, where it differs from the template's.
    pub timeout: Option<Duration>,
    /// The task's deadline.
    pub expires_at: Option<SystemTime>,
    pub not_before: Option<SystemTime>,
    /// Whether its task is paused.
    pub paused: bool,
    /// Upper bound on the size of its assignment; 0 where every worker accepts that size.
    pub bytes: i32,
    /// The task's revision.
    pub revision: i32,
    /// Set when the same transaction assigns it to a worker.
    pub grant: Option<Grant>,
}

impl NewLive {
    /// Whether it can be claimed at once.
    pub fn is_due(&self) -> bool {
        !self.paused && self.not_before.is_none()
    }

    /// Number of its next attempt.
    pub fn next_attempt(&self) -> i32 {
        self.past.map_or(0, |past| past.attempt) + 1
    }
}

/// The attempts of a step before it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    pub attempt: i32,
    /// Number of attempts that still count against the retry limit.
    pub charged: i16,
}

/// A claim of a row that is already in the queue. Another server may have claimed it first;
/// [`Claimed`] lists the claims that succeeded.
#[derive(Clone, Debug)]
pub struct Claim {
    pub task_id: Uuid,
    pub step: i16,
    pub grant: Grant,
    /// Whether the step is a root, in which case its task may still have to be marked as started.
    pub root: bool,
}

/// A claim that succeeded.
#[derive(Clone, Debug)]
pub struct Claimed {
    pub task_id: Uuid,
    pub step: i16,
    pub template_id: i32,
    pub lane_id: i32,
    pub attempt: i32,
    pub charged: i16,
    pub nonce: i64,
    pub worker_id: Uuid,
    pub deadline_at: SystemTime,
}

/// A step that ends for good.
#[derive(Clone, Debug)]
pub struct Ended {
    pub task_id: Uuid,
    pub step: i16,
    /// The lease that its queue row must still have; `None` when no attempt runs.
    pub lease: Option<i64>,
    /// `Complete`, `Error` or `Cancelled`.
    pub state: StepState,
    pub attempt: i32,
    pub charged: i16,
    pub result: Option<String>,
    pub failure: Option<Failure>,
    pub ready_at: SystemTime,
    pub started_at: Option<SystemTime>,
}

/// A step that ends without an attempt: by its condition or by an operator's order.
#[derive(Clone, Debug)]
pub struct SetStep {
    pub task_id: Uuid,
    pub step: i16,
    /// `Skipped`, `ResolvedManually`, or `Error` when its condition could not be evaluated.
    pub state: StepState,
    /// Whether it has a queue row.
    pub in_queue: bool,
    pub attempt: i32,
    pub charged: i16,
    pub ready_at: SystemTime,
    pub started_at: Option<SystemTime>,
    pub result: Option<String>,
    pub failure: Option<Failure>,
    pub by: String,
    pub reason: String,
}

/// A task to pause (`by` has the actor and the reason), or to resume (`by` is `None`).
#[derive(Clone, Debug)]
pub struct TaskPause {
    pub task_id: Uuid,
    pub by: Option<(String, String)>,
}

/// Why a task ended as a whole; all `None` when it is reopened.
#[derive(Clone, Debug)]
pub struct Mark {
    pub task_id: Uuid,
    pub resolved: Option<(String, String)>,
    pub error_code: Option<String>,
}

/// A task's settings, annotations and priority after its planner's adjustments.
#[derive(Clone, Debug)]
pub struct Planned {
    pub task_id: Uuid,
    pub settings: String,
    pub annotations: String,
    pub priority: i16,
}

/// A failed attempt that will be retried. Postgres computes the time of the retry.
#[derive(Clone, Debug)]
pub struct Retry {
    pub attempt: EndedAttempt,
    pub backoff: Backoff,
}

/// A step that returns to ready because its attempt was lost or never started.
#[derive(Clone, Debug)]
pub struct GivenBack {
    pub attempt: EndedAttempt,
    /// Whether it counts towards the bound on lost attempts.
    pub lost: bool,
}

/// What the history records about an ended attempt.
#[derive(Clone, Debug)]
pub struct EndedAttempt {
    pub task_id: Uuid,
    pub step: i16,
    pub template_id: i32,
    pub attempt: i32,
    pub lease: i64,
    pub worker_id: Uuid,
    pub outcome: OutcomeKind,
    pub charged: bool,
    pub failure: Option<Failure>,
    pub retry_after: Option<Duration>,
    pub ready_at: SystemTime,
    pub started_at: SystemTime,
}

/// New values of a task's row, which the transaction has locked or checks by `expected`.
#[derive(Clone, Debug)]
pub struct TaskUpdate {
    pub task_id: Uuid,
    pub state: TaskState,
    pub steps_live: i16,
    pub steps_done: Vec<u8>,
    pub failed_step: Option<i16>,
    pub cancelled: Option<(String, String)>,
    /// The values that the row must have before the update, where it is not locked and the values
    /// come from the cache.
    pub expected: Option<Progress>,
    /// Upper bound on the size of its documents.
    pub bytes: i32,
    pub kept: Kept,
}

/// Further columns of a task's row, which this update does not write.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    pub template_id: i32,
    pub priority: i16,
    pub settings: Option<Arc<str>>,
    pub revision: i32,
    pub expires_at: Option<SystemTime>,
}

/// A result of an attempt that had ended without it.
#[derive(Clone, Copy, Debug)]
pub struct Late {
    pub lease: Lease,
    /// The outcome that the late result reports.
    pub outcome: OutcomeKind,
}

/// One row of the event log.
#[derive(Clone, Debug)]
pub struct Event {
    pub kind: EventType,
    pub template_id: Option<i32>,
    pub task_id: Option<Uuid>,
    pub step: Option<i16>,
    pub attempt: Option<i32>,
    pub worker_id: Option<Uuid>,
    pub outcome: Option<OutcomeKind>,
    pub charged: Option<bool>,
    pub lease: Option<i64>,
    pub ready_at: Option<SystemTime>,
    pub started_at: Option<SystemTime>,
    pub failure: Option<Failure>,
    /// The actor of the order, and the reason.
    pub ordered: Option<(String, String)>,
}

impl Event {
    /// An event about a task as a whole.
    pub fn of_task(kind: EventType, template_id: i32, task_id: Uuid) -> Self {
        Self {
            kind,
            template_id: Some(template_id),
            task_id: Some(task_id),
            step: None,
            attempt: None,
            worker_id: None,
            outcome: None,
            charged: None,
            lease: None,
            ready_at: None,
            started_at: None,
            failure: None,
            ordered: None,
        }
    }

    /// An event that ends an attempt.
    pub fn of_attempt(kind: EventType, attempt: &EndedAttempt) -> Self {
        Self {
            step: Some(attempt.step),
            attempt: Some(attempt.attempt),
            worker_id: Some(attempt.worker_id),
            outcome: Some(attempt.outcome),
            charged: Some(attempt.charged),
            lease: Some(attempt.lease),
            ready_at: Some(attempt.ready_at),
            started_at: Some(attempt.started_at),
            failure: attempt.failure.clone(),
            ..Self::of_task(kind, attempt.template_id, attempt.task_id)
        }
    }
}

/// An idempotency key to release, if this task owns it.
#[derive(Clone, Debug)]
pub struct DroppedKey {
    pub namespace: String,
    pub key: String,
    pub task_id: Uuid,
}

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

/// The documents to read for the steps that are claimed.
#[derive(Clone, Debug, Default)]
pub struct WantedInputs {
    /// Each with the lowest revision that is accepted.
    pub tasks: Vec<(Uuid, i32)>,
    pub results: Vec<(Uuid, i16)>,
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
