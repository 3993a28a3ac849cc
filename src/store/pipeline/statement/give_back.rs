//! Returns steps to ready whose attempt was lost or never started.

use uuid::Uuid;

use super::EndedAttempt;
use crate::store::pipeline::encode::columns;

/// A step that returns to ready because its attempt was lost or never started.
#[derive(Clone, Debug)]
pub struct GivenBack {
    pub attempt: EndedAttempt,
    /// Whether it counts towards the bound on lost attempts.
    pub lost: bool,
}

pub(in crate::store) const GIVE_BACK: &str = "
    WITH given AS (
        UPDATE queue q
           SET state = 'ready', due = NOT q.paused, lost = q.lost + u.lost::int::int2, lease = NULL, worker_id = NULL,
               started_at = NULL, deadline_at = NULL, share_id = NULL, ready_at = $5::timestamptz
          FROM (SELECT u.lost, q.tid
                  FROM unnest($1::uuid[], $2::int2[], $3::int8[], $4::bool[]) AS u(task_id, step, lease, lost)
                 CROSS JOIN LATERAL (
                       SELECT ctid AS tid FROM queue
                        WHERE task_id = u.task_id AND step = u.step AND lease = u.lease LIMIT 1) AS q
                 LIMIT cardinality($1)) AS u
         WHERE q.ctid = u.tid
        RETURNING 1)
    SELECT expect_rows('steps given back', count(*), $6) FROM given";

columns!(GivenBackSteps from g: GivenBack {
    task_id: Uuid = g.attempt.task_id,
    step: i16 = g.attempt.step,
    lease: i64 = g.attempt.lease,
    lost: bool = g.lost,
});
