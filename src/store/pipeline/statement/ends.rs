//! Reads ended steps and ended attempts.

use std::time::SystemTime;

use tokio_postgres::Row;
use uuid::Uuid;

use super::step_state;
use crate::{
    domain::{
        attempt::{Failure, OutcomeKind},
        lease::Lease,
        step::StepState,
    },
    store::{StoreError, pipeline::encode::columns, task::failure_of},
};

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

pub(in crate::store) const PAST_ENDS: &str = "
    SELECT task_id, step, state::text, attempt, charged, ready_at, started_at,
           CASE WHEN state = 'resolved_manually' THEN result END, error_code, error_message, error_context
      FROM steps WHERE task_id = ANY($1::uuid[])";

/// A row of `PAST_ENDS`.
pub(in crate::store) fn ended_row(row: &Row) -> Result<EndedRow, StoreError> {
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

pub(in crate::store) const PAST_OUTCOMES: &str = "
    SELECT e.*
      FROM unnest($1::uuid[], $2::int2[], $3::int8[]) AS u(task_id, step, lease)
     CROSS JOIN LATERAL (
           SELECT task_id, step, lease, outcome::text FROM events
            WHERE task_id = u.task_id AND outcome IS NOT NULL AND step = u.step AND lease = u.lease LIMIT 1) AS e";

columns!(PastLeases from lease: Lease {
    task_id: Uuid = lease.task_id,
    step: i16 = lease.step,
    nonce: i64 = lease.nonce,
});

/// A row of `PAST_OUTCOMES`; `None` for an outcome that this build does not know.
pub(in crate::store) fn past_outcome(row: &Row) -> Option<(Lease, OutcomeKind)> {
    let lease = Lease {
        task_id: row.get(0),
        step: row.get(1),
        nonce: row.get(2),
    };
    Some((lease, OutcomeKind::from_name(row.get(3))?))
}
