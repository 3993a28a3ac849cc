//! Stores results of attempts that had ended without them.

use uuid::Uuid;

use crate::{
    domain::{attempt::OutcomeKind, lease::Lease},
    store::pipeline::encode::columns,
};

/// A result of an attempt that had ended without it.
#[derive(Clone, Copy, Debug)]
pub struct Late {
    pub lease: Lease,
    /// The outcome that the late result reports.
    pub outcome: OutcomeKind,
}

/// Stores late results, the first of each attempt, and an event for each. A result of a removed
/// task is not stored.
pub(in crate::store) const LATE_RESULTS: &str = "
    WITH late AS (
        INSERT INTO late_results (task_id, step, lease, at, outcome)
        SELECT u.task_id, u.step, u.lease, coalesce($5::timestamptz, now()), u.outcome::attempt_outcome
          FROM unnest($1::uuid[], $2::int2[], $3::int8[], $4::text[]) AS u(task_id, step, lease, outcome)
         CROSS JOIN LATERAL (SELECT FROM tasks WHERE task_id = u.task_id LIMIT 1) AS t
            ON CONFLICT DO NOTHING
        RETURNING task_id, step, lease, at, outcome)
    INSERT INTO events (at, type, template_id, task_id, step, attempt, worker_id, detail)
    SELECT l.at, 'step.answered_late', t.template_id, l.task_id, l.step, a.attempt, a.worker_id, l.outcome::text
      FROM late AS l
     CROSS JOIN LATERAL (SELECT template_id FROM tasks WHERE task_id = l.task_id LIMIT 1) AS t
      LEFT JOIN LATERAL (
           SELECT attempt, worker_id FROM attempts WHERE task_id = l.task_id AND step = l.step AND lease = l.lease LIMIT 1) AS a
           ON true";

columns!(LateResults from late: Late {
    task_id: Uuid = late.lease.task_id,
    step: i16 = late.lease.step,
    lease: i64 = late.lease.nonce,
    outcome: &'a str = late.outcome.as_str(),
});
