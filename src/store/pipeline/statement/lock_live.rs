//! Locks queue rows: those of leases, or all rows of tasks.

use std::time::SystemTime;

use tokio_postgres::Row;
use uuid::Uuid;

use super::step_state;
use crate::{
    domain::{lease::Lease, step::StepState},
    store::{
        StoreError,
        pipeline::{PROBE, encode::columns},
    },
};

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

/// Locks in the order of the list.
pub(in crate::store) const LOCK_LEASES: &str = "
    SELECT q.*
      FROM unnest($1::uuid[], $2::int2[]) AS u(task_id, step)
     CROSS JOIN LATERAL (
           SELECT task_id, step, attempt, charged, lost, lease, worker_id, ready_at, started_at, deadline_at, share_id, state::text,
                  reopened, forgiven
             FROM queue
            WHERE task_id = u.task_id AND step = u.step LIMIT 1 FOR UPDATE) AS q";

columns!(Leases from lease: Lease {
    task_id: Uuid = lease.task_id,
    step: i16 = lease.step,
});

pub(in crate::store) const LOCK_TASKS_LIVE: &str = "
    SELECT task_id, step, attempt, charged, lost, lease, worker_id, ready_at, started_at, deadline_at, share_id, state::text,
           reopened, forgiven
      FROM queue WHERE task_id = ANY($1::uuid[]) ORDER BY task_id, step FOR UPDATE";

/// A row of either statement.
pub(in crate::store) fn live_row(row: &Row) -> Result<LiveRow, StoreError> {
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
