//! Claims steps that are in the queue.

use std::time::SystemTime;

use tokio_postgres::Row;
use uuid::Uuid;

use super::Grant;
use crate::store::error::stale_admission;
use crate::store::pipeline::{encode::columns, statement::admission::check_admission};

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

/// SKIP LOCKED: a row that another server is claiming, or whose task is being cancelled, is not
/// claimed. Nor is one that became ready after this transaction read the clock: no step may start
/// before it was ready. `due` is tested outside the subquery, where it cannot select the index of
/// claimable steps, in which a step is found by walking.
///
/// A task starts with its first claim, and its event precedes that of the step in the log. The
/// tasks are locked in the order of their ids, like all locks on task rows, and after
/// `UPDATE_TASKS`: a decision about a task with an order did not know that a claim would start it.
/// Any other transaction that locks the row of a pending task has first locked all its queue rows,
/// so that none of them was claimed here.
pub(in crate::store) const CLAIM: &str = concat!(
    "
    WITH claimed AS (
        UPDATE queue q
           SET state = 'in_progress', due = false, attempt = q.attempt + 1, lease = u.lease, worker_id = u.worker_id,
               started_at = $8::timestamptz,
               deadline_at = least($8::timestamptz + make_interval(secs => coalesce(q.timeout, u.timeout)), q.expires_at),
               next_attempt_at = NULL, share_id = u.share_id
          FROM (SELECT u.lease, u.worker_id, u.timeout, u.share_id, u.root, q.tid
                  FROM unnest($1::uuid[], $2::int2[], $3::int8[], $4::uuid[], $5::float8[], $6::int4[], $7::bool[])
                       AS u(task_id, step, lease, worker_id, timeout, share_id, root)
                 CROSS JOIN LATERAL (
                       SELECT ctid AS tid, due, coalesce(next_attempt_at, ready_at) AS since, expires_at FROM queue
                        WHERE task_id = u.task_id AND step = u.step LIMIT 1 FOR UPDATE SKIP LOCKED) AS q
                 WHERE q.due AND q.since <= $8::timestamptz AND coalesce(q.expires_at > $8::timestamptz, true)
                   AND (",
    check_admission!("$9", "$10", "$8::timestamptz"),
    ")
                 LIMIT cardinality($1)) AS u
         WHERE q.ctid = u.tid
        RETURNING q.task_id, q.step, q.template_id, q.lane_id, q.attempt, q.charged, q.lease, q.worker_id, q.deadline_at,
                  q.ready_at, u.root),
    started AS (
        UPDATE tasks t SET state = 'in_progress', started_at = $8::timestamptz
          FROM (SELECT t.tid
                  FROM (SELECT task_id FROM claimed WHERE root ORDER BY task_id) AS c
                 CROSS JOIN LATERAL (
                       SELECT ctid AS tid FROM tasks WHERE task_id = c.task_id AND state = 'pending' LIMIT 1 FOR UPDATE) AS t
                 LIMIT cardinality($1)) AS u
         WHERE t.ctid = u.tid
        RETURNING t.task_id, t.template_id),
    log AS (
        INSERT INTO events (at, type, template_id, task_id, step, attempt, worker_id, lease, ready_at)
        SELECT $8::timestamptz, 'task.started'::event_type, template_id, task_id, NULL, NULL, NULL, NULL, NULL FROM started
        UNION ALL
        SELECT $8::timestamptz, 'step.started'::event_type, template_id, task_id, step, attempt, worker_id, lease, ready_at
          FROM claimed)
    SELECT task_id, step, template_id, lane_id, attempt, charged, lease, worker_id, deadline_at FROM claimed"
);

columns!(Claims from claim: Claim {
    task_id: Uuid = claim.task_id,
    step: i16 = claim.step,
    lease: i64 = claim.grant.nonce,
    worker_id: Uuid = claim.grant.worker_id,
    timeout: f64 = claim.grant.timeout.as_secs_f64(),
    share_id: Option<i32> = claim.grant.share_id,
    root: bool = claim.root,
});

/// A row of `CLAIM`.
pub(in crate::store) fn claimed(row: &Row) -> Claimed {
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
