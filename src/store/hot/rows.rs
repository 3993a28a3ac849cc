//! The rows of tasks and steps that the engine reads.

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
    /// The adjustments by overrides and by its planner, as JSON.
    pub settings: Option<Arc<str>>,
    pub expires_at: Option<SystemTime>,
    /// Why it ended as a whole, if it did.
    pub error_code: Option<String>,
    /// Upper bound on the size of its documents; the largest number where that is unknown.
    pub bytes: i32,
    /// Changes whenever its settings, its notes or its priority change.
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
    /// Whether the attempt is a probe of a half-open circuit.
    pub probe: bool,
    pub state: StepState,
    /// Whether an operator has retried it.
    pub reopened: bool,
    /// Number of uncharged attempts before it was reopened; they no longer count against it.
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
    /// Only for a step that an operator resolved.
    pub result: Option<String>,
    pub failure: Option<Failure>,
}

/// A step that can be claimed.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub task_id: Uuid,
    pub step: i16,
    pub template_id: i32,
    pub lane_id: i32,
    pub priority: i16,
    /// Upper bound on the size of its assignment; 0 where every worker accepts that size.
    pub bytes: i32,
    /// The task's revision.
    pub revision: i32,
}

/// How many claimable steps of a lane to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneDemand {
    pub lane_id: i32,
    pub limit: i32,
    /// Upper bound on the size of an assignment; larger ones are passed over.
    pub bytes: i32,
}

/// The rows that the settle loop works on.
#[derive(Debug)]
pub struct SettleRead {
    /// The rows of the requested leases, and all rows of the tasks that have an order.
    pub live: Vec<LiveRow>,
    /// All ended steps of the tasks that have an order.
    pub ended: Vec<EndedRow>,
    pub tasks: Vec<TaskRow>,
    /// Not locked, so another claim may come first.
    pub candidates: Vec<Candidate>,
    /// The database's time; the epoch when there is no task, and so nothing to time.
    pub now: SystemTime,
}

/// The rows that the dispatch loop works on.
#[derive(Debug)]
pub struct DispatchRead {
    /// Locked.
    pub candidates: Vec<Candidate>,
    /// The lanes of the promoted retries; a lane may occur several times.
    pub promoted: Vec<i32>,
    pub now: SystemTime,
    /// Time until the next retry is due.
    pub next_retry: Option<Duration>,
}

/// An idempotency key that intake requests.
#[derive(Clone, Debug)]
pub struct KeyRow {
    pub namespace: String,
    pub key: String,
    pub task_id: Uuid,
    pub digest: Vec<u8>,
}

/// The rows that intake works on.
#[derive(Debug)]
pub struct IntakeRead {
    /// The newest template and the newest change of one; a number above the caller's means that its
    /// cached "newest version" is stale.
    pub newest: Newest,
    /// The owner of each key: a task of this transaction or of an earlier submit.
    pub keys: Vec<KeyRow>,
    pub candidates: Vec<Candidate>,
    pub now: SystemTime,
}

/// The documents of a task one of whose steps was claimed.
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
    /// Size of its documents.
    pub fn bytes(&self) -> usize {
        self.context.len() + self.annotations.len() + self.settings.as_deref().map_or(0, str::len)
    }
}

/// The answer to a commit.
#[derive(Debug, Default)]
pub struct Applied {
    /// The transaction's time, if it updated a task or the caller supplied one.
    pub now: Option<SystemTime>,
    /// The claims of queued steps that succeeded.
    pub claimed: Vec<Claimed>,
    pub task_inputs: Vec<TaskInput>,
    /// (task, step, JSON)
    pub results: Vec<(Uuid, i16, String)>,
    /// Time until the first of the retries written here is due.
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
