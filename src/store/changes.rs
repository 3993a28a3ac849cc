//! Everything that one engine transaction writes.
//!
//! The engine locks what it decides on, decides, and fills a [`Changes`]; [`Hot::commit`](super::hot::Hot::commit)
//! sends all of it, with the `COMMIT`, in one round trip. The statements are in `writes`, and in `orders` those that are rare.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use uuid::Uuid;

use crate::domain::{
    attempt::{Failure, OutcomeKind},
    event::EventType,
    lease::Lease,
    progress::Progress,
    retry::Backoff,
    step::StepState,
    task::TaskState,
};

/// A task to insert, with its steps.
#[derive(Clone, Debug)]
pub struct NewTask {
    pub task_id: Uuid,
    pub template_id: i32,
    /// `Pending`, or `InProgress` when a root step is claimed or skipped in the same transaction, or `Complete` when all are
    /// skipped.
    pub state: TaskState,
    pub priority: i16,
    pub steps_total: i16,
    pub steps_live: i16,
    pub steps_done: Vec<u8>,
    /// A root whose condition could not be judged.
    pub failed_step: Option<i16>,
    pub correlation_id: String,
    pub traceparent: Option<String>,
    pub annotations: String,
    pub context: String,
    /// What overrides changed, as JSON.
    pub settings: Option<String>,
    pub not_before: Option<SystemTime>,
    pub expires_at: Option<SystemTime>,
    /// Of its documents.
    pub bytes: i32,
}

/// The right to one attempt, about to be written.
#[derive(Clone, Copy, Debug)]
pub struct Grant {
    pub worker_id: Uuid,
    pub nonce: i64,
    /// Until the attempt is timed out.
    pub timeout: Duration,
    /// The part of a limited service that it uses, or [`PROBE`].
    pub permit_id: Option<i32>,
}

/// In place of a part: the attempt is let through a half-open circuit. No part has this number.
pub const PROBE: i32 = 0;

/// What the claims of a transaction take for granted about a service; if it is not so any more, nothing is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    pub service_id: i32,
    pub gate: i64,
    pub permit: Option<UsedPermit>,
}

/// A part of a limit that claims rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsedPermit {
    pub permit_id: i32,
    pub term: i64,
    /// Probes that are used up for good; 0 for a limit of steps at once, whose part stays the server's.
    pub spent: i32,
}

/// A service that asked for a pause.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pause {
    pub service_id: i32,
    pub seconds: f64,
}

/// A step that comes into play: a root of a new task, a step whose last parent is done, or one that is tried again.
#[derive(Clone, Debug)]
pub struct NewLive {
    pub task_id: Uuid,
    pub step: i16,
    pub template_id: i32,
    pub lane_id: i32,
    pub priority: i16,
    /// What is behind a step that an operator has tried again.
    pub past: Option<Past>,
    /// How long an attempt may run, where it is not the template's time.
    pub timeout: Option<Duration>,
    /// The task's deadline.
    pub expires_at: Option<SystemTime>,
    pub not_before: Option<SystemTime>,
    /// Its task is paused.
    pub paused: bool,
    /// What its assignment weighs at most; 0 where that is less than what every worker takes.
    pub bytes: i32,
    /// Its task's.
    pub revision: i32,
    /// Set when a worker gets it in the same transaction.
    pub grant: Option<Grant>,
}

impl NewLive {
    /// Whether a worker may get it at once.
    pub fn is_due(&self) -> bool {
        !self.paused && self.not_before.is_none()
    }

    /// The number of its next attempt.
    pub fn next_attempt(&self) -> i32 {
        self.past.map_or(0, |past| past.attempt) + 1
    }
}

/// The attempts that a step had before it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    pub attempt: i32,
    /// Those that still count against the limit.
    pub charged: i16,
}

/// A claim of a row that is in the queue already. It may lose against another server; [`Claimed`] says which ones won.
#[derive(Clone, Debug)]
pub struct Claim {
    pub task_id: Uuid,
    pub step: i16,
    pub grant: Grant,
    /// The step is a root, so its task may still have to be marked as started.
    pub root: bool,
}

/// A claim that was committed.
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

/// A step that leaves play for good.
#[derive(Clone, Debug)]
pub struct Ended {
    pub task_id: Uuid,
    pub step: i16,
    /// The lease that its queue row must still carry; `None` when no attempt runs.
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

/// A step that ends by a word and not by an attempt: a condition's or an operator's.
#[derive(Clone, Debug)]
pub struct SetStep {
    pub task_id: Uuid,
    pub step: i16,
    /// `Skipped`, `ResolvedManually`, or `Error` when its condition could not be judged.
    pub state: StepState,
    /// It waits in the queue.
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

/// A task that is paused, by whom and why, or goes on.
#[derive(Clone, Debug)]
pub struct Hold {
    pub task_id: Uuid,
    pub by: Option<(String, String)>,
}

/// Why a task ended as a whole; nothing for one that goes on after all.
#[derive(Clone, Debug)]
pub struct Mark {
    pub task_id: Uuid,
    pub resolved: Option<(String, String)>,
    pub error_code: Option<String>,
}

/// What a planner's answer made of a task.
#[derive(Clone, Debug)]
pub struct Planned {
    pub task_id: Uuid,
    pub settings: String,
    pub annotations: String,
    pub priority: i16,
}

/// A failed attempt with another one to come. When that is, Postgres decides.
#[derive(Clone, Debug)]
pub struct Retry {
    pub attempt: EndedAttempt,
    pub backoff: Backoff,
}

/// A step that goes back to the ready ones because its attempt was lost or never started.
#[derive(Clone, Debug)]
pub struct GivenBack {
    pub attempt: EndedAttempt,
    /// Whether it counts towards the bound on lost attempts.
    pub lost: bool,
}

/// What the history says about an attempt that ended.
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

/// New values of a task's row, which the engine holds locked.
#[derive(Clone, Debug)]
pub struct TaskUpdate {
    pub task_id: Uuid,
    pub state: TaskState,
    pub steps_live: i16,
    pub steps_done: Vec<u8>,
    pub failed_step: Option<i16>,
    pub cancelled: Option<(String, String)>,
    /// What the row must say before, where it is not locked but only believed to.
    pub expected: Option<Progress>,
    /// What its documents weigh at most.
    pub bytes: i32,
    pub kept: Kept,
}

/// What a task's row says beside, and is not written here.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    pub template_id: i32,
    pub priority: i16,
    pub settings: Option<Arc<str>>,
    pub revision: i32,
    pub expires_at: Option<SystemTime>,
}

/// An answer for an attempt that had ended without it.
#[derive(Clone, Copy, Debug)]
pub struct Late {
    pub lease: Lease,
    /// How the attempt went, by that answer.
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
    /// Who ordered it, and why.
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

/// An idempotency key to take back from a task, if that task has it.
#[derive(Clone, Debug)]
pub struct DroppedKey {
    pub namespace: String,
    pub key: String,
    pub task_id: Uuid,
}

/// What one transaction writes.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub new_tasks: Vec<NewTask>,
    /// Idempotency keys to take back, because the task that took them will not be stored after all.
    pub dropped_keys: Vec<DroppedKey>,
    pub ended: Vec<Ended>,
    pub retries: Vec<Retry>,
    pub given_back: Vec<GivenBack>,
    pub set_steps: Vec<SetStep>,
    /// Failed steps that are tried again; each is in `new_live` too.
    pub reopened: Vec<(Uuid, i16)>,
    pub new_live: Vec<NewLive>,
    pub claims: Vec<Claim>,
    /// In ascending order of their ids.
    pub tasks: Vec<TaskUpdate>,
    pub holds: Vec<Hold>,
    pub marks: Vec<Mark>,
    pub planned: Vec<Planned>,
    /// Tasks whose deadline need not be waited for any more.
    pub expired: Vec<Uuid>,
    pub late: Vec<Late>,
    pub events: Vec<Event>,
    /// In ascending order of their ids.
    pub passed: Vec<Passed>,
    /// In ascending order of their ids.
    pub pauses: Vec<Pause>,
    /// Wakes the other servers when the transaction commits.
    pub notify: Option<String>,
}

/// Which documents to read for the steps that are claimed.
#[derive(Clone, Debug, Default)]
pub struct WantedInputs {
    /// Each with the revision that it must have at least.
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
            && self.holds.is_empty()
            && self.expired.is_empty()
            && self.late.is_empty()
            && self.events.is_empty()
    }
}
