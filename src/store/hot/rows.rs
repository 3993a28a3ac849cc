//! What the engine reads: rows of tasks and steps as it works on them.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio_postgres::Row;
use uuid::Uuid;

use crate::{
    domain::{
        attempt::Failure,
        progress::{Progress, StepSet},
        step::StepState,
        task::TaskState,
    },
    store::{
        StoreError,
        changes::{Claimed, PROBE},
        task::failure_of,
        template::Newest,
    },
};

/// A task's row, locked until the transaction ends.
#[derive(Clone, Debug)]
pub struct TaskRow {
    pub task_id: Uuid,
    pub template_id: i32,
    pub priority: i16,
    pub progress: Progress,
    /// What overrides and its planner changed, as JSON.
    pub settings: Option<Arc<str>>,
    pub expires_at: Option<SystemTime>,
    /// It ended as a whole, for this reason.
    pub error_code: Option<String>,
    /// What its documents weigh at most; the largest number where that is not known.
    pub bytes: i32,
    /// Another number whenever its settings, its notes or its priority have changed.
    pub revision: i32,
}

/// A step in play.
#[derive(Clone, Debug)]
pub struct LiveRow {
    pub task_id: Uuid,
    pub step: i16,
    pub attempt: i32,
    pub charged: i16,
    pub lost: i16,
    pub lease: Option<i64>,
    pub worker_id: Option<Uuid>,
    pub ready_at: SystemTime,
    pub started_at: Option<SystemTime>,
    pub deadline_at: Option<SystemTime>,
    /// The attempt is a probe of a half-open circuit.
    pub probe: bool,
    pub state: StepState,
    /// An operator has it tried again.
    pub reopened: bool,
    /// Attempts that had cost nothing when it was reopened: they are not held against it any more.
    pub forgiven: i32,
}

/// A step that ended.
#[derive(Clone, Debug)]
pub struct EndedRow {
    pub task_id: Uuid,
    pub step: i16,
    pub state: StepState,
    pub attempt: i32,
    pub charged: i16,
    pub ready_at: SystemTime,
    pub started_at: Option<SystemTime>,
    /// Of one that was resolved by hand.
    pub result: Option<String>,
    pub failure: Option<Failure>,
}

/// A step that a claim could take.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub task_id: Uuid,
    pub step: i16,
    pub template_id: i32,
    pub lane_id: i32,
    pub priority: i16,
    /// What its assignment weighs at most; 0 where that is less than what every worker takes.
    pub bytes: i32,
    /// Its task's.
    pub revision: i32,
}

/// How many claimable steps of a lane to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneDemand {
    pub lane_id: i32,
    pub limit: i32,
    /// Only those whose assignment weighs no more.
    pub bytes: i32,
}

/// What the settler works on.
#[derive(Debug)]
pub struct SettleRead {
    /// The rows of the leases asked for, and all rows of the tasks that somebody gave an order about.
    pub live: Vec<LiveRow>,
    /// All ended steps of those.
    pub ended: Vec<EndedRow>,
    pub tasks: Vec<TaskRow>,
    /// Not locked: a claim of one may come too late.
    pub candidates: Vec<Candidate>,
    /// The database's clock; the epoch when there is no task, and so nothing to time.
    pub now: SystemTime,
}

/// What the dispatcher works on.
#[derive(Debug)]
pub struct DispatchRead {
    /// Locked.
    pub candidates: Vec<Candidate>,
    /// The lanes that retries have joined, one or more times.
    pub promoted: Vec<i32>,
    pub now: SystemTime,
    /// Time until the next retry falls due.
    pub next_retry: Option<Duration>,
}

/// An idempotency key that intake asks for.
#[derive(Clone, Debug)]
pub struct KeyRow {
    pub namespace: String,
    pub key: String,
    pub task_id: Uuid,
    pub digest: Vec<u8>,
}

/// What intake works on.
#[derive(Debug)]
pub struct IntakeRead {
    /// The newest template and change of one; a larger number than the caller knows means that its view of "newest version" is stale.
    pub newest: Newest,
    /// Who owns each of the keys now: this transaction, or an earlier submit.
    pub keys: Vec<KeyRow>,
    pub candidates: Vec<Candidate>,
    pub now: SystemTime,
}

/// The documents of a task whose step was claimed.
#[derive(Clone, Debug)]
pub struct TaskInput {
    pub task_id: Uuid,
    pub correlation_id: String,
    pub traceparent: Option<String>,
    pub annotations: String,
    pub context: String,
    pub settings: Option<Arc<str>>,
    pub revision: i32,
}

impl TaskInput {
    /// What its documents weigh.
    pub fn bytes(&self) -> usize {
        self.context.len() + self.annotations.len() + self.settings.as_deref().map_or(0, str::len)
    }
}

/// What a commit gave back.
#[derive(Debug, Default)]
pub struct Applied {
    /// The transaction's time, if it changed a task or was given one.
    pub now: Option<SystemTime>,
    /// The claims of queued steps that succeeded.
    pub claimed: Vec<Claimed>,
    pub task_inputs: Vec<TaskInput>,
    /// (task, step, JSON)
    pub results: Vec<(Uuid, i16, String)>,
    /// Time until the first of the retries falls due.
    pub next_retry: Option<Duration>,
    /// From the first write to the answer to the commit.
    pub took: Duration,
}

pub(super) fn live_row(row: &Row) -> Result<LiveRow, StoreError> {
    Ok(LiveRow {
        task_id: row.get(0),
        step: row.get(1),
        attempt: row.get(2),
        charged: row.get(3),
        lost: row.get(4),
        lease: row.get(5),
        worker_id: row.get(6),
        ready_at: row.get(7),
        started_at: row.get(8),
        deadline_at: row.get(9),
        probe: row.get::<_, Option<i32>>(10) == Some(PROBE),
        state: step_state(row.get(11))?,
        reopened: row.get(12),
        forgiven: row.get(13),
    })
}

pub(super) fn ended_row(row: &Row) -> Result<EndedRow, StoreError> {
    Ok(EndedRow {
        task_id: row.get(0),
        step: row.get(1),
        state: step_state(row.get(2))?,
        attempt: row.get(3),
        charged: row.get(4),
        ready_at: row.get(5),
        started_at: row.get(6),
        result: row.get(7),
        failure: failure_of(row, 8),
    })
}

pub(super) fn step_state(name: &str) -> Result<StepState, StoreError> {
    StepState::from_name(name).ok_or_else(|| StoreError::Corrupt(format!("step state `{name}`")))
}

pub(super) fn task_row(row: &Row) -> Result<TaskRow, StoreError> {
    let state: &str = row.get(2);
    let state = TaskState::from_name(state)
        .ok_or_else(|| StoreError::Corrupt(format!("task state `{state}`")))?;
    Ok(TaskRow {
        task_id: row.get(0),
        template_id: row.get(1),
        priority: row.get(3),
        progress: Progress {
            state,
            live: u16::try_from(row.get::<_, i16>(4)).unwrap_or_default(),
            done: StepSet::from_bytes(row.get(5)),
            failed_step: row
                .get::<_, Option<i16>>(6)
                .and_then(|step| u16::try_from(step).ok()),
            paused: row.get(7),
        },
        settings: row.get::<_, Option<String>>(8).map(Arc::from),
        expires_at: row.get(9),
        error_code: row.get(10),
        bytes: row.get(11),
        revision: row.get(12),
    })
}

pub(super) fn candidate(row: &Row) -> Candidate {
    Candidate {
        task_id: row.get(0),
        step: row.get(1),
        template_id: row.get(2),
        lane_id: row.get(3),
        priority: row.get(4),
        bytes: row.get(5),
        revision: row.get(6),
    }
}

pub(super) fn claimed(row: &Row) -> Claimed {
    Claimed {
        task_id: row.get(0),
        step: row.get(1),
        template_id: row.get(2),
        lane_id: row.get(3),
        attempt: row.get(4),
        charged: row.get(5),
        nonce: row.get(6),
        worker_id: row.get(7),
        deadline_at: row.get(8),
    }
}

pub(in crate::store) fn task_input(row: &Row) -> TaskInput {
    TaskInput {
        task_id: row.get(0),
        correlation_id: row.get(1),
        traceparent: row.get(2),
        annotations: row.get(3),
        context: row.get(4),
        settings: row.get::<_, Option<String>>(5).map(Arc::from),
        revision: row.get(6),
    }
}
