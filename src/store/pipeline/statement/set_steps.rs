//! Ends steps without an attempt: by a condition or by an operator's order.

use std::time::SystemTime;

use uuid::Uuid;

use crate::{
    domain::{attempt::Failure, step::StepState},
    store::pipeline::encode::{code, columns, context, message},
};

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

/// Ends steps without an attempt. A step that waits in the queue leaves it; the row of a failed
/// step is overwritten.
pub(in crate::store) const SET_STEPS: &str = "
    WITH u AS (
        SELECT * FROM unnest($1::uuid[], $2::int2[], $3::text[], $4::bool[], $5::int4[], $6::int2[], $7::timestamptz[],
                             $8::timestamptz[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[])
                      AS u(task_id, step, state, in_queue, attempt, charged, ready_at, started_at, result, code, message,
                           context, set_by, reason)),
    gone AS (
        DELETE FROM queue q
         USING (SELECT q.tid
                  FROM u CROSS JOIN LATERAL (
                       SELECT ctid AS tid FROM queue
                        WHERE task_id = u.task_id AND step = u.step AND lease IS NULL LIMIT 1) AS q
                 WHERE u.in_queue LIMIT cardinality($1)) AS u
         WHERE q.ctid = u.tid
        RETURNING 1)
    INSERT INTO steps (task_id, step, state, attempt, charged, ready_at, started_at, ended_at, result, error_code,
                       error_message, error_context, set_by, set_reason)
    SELECT task_id, step, state::step_state, attempt, charged, coalesce(ready_at, c.now), started_at, c.now, result, code,
           message, context, set_by, reason
      FROM u, (SELECT coalesce($15::timestamptz, now()) AS now) AS c
     WHERE (SELECT expect_rows('steps set in queue', count(*), (SELECT count(*) FROM u WHERE in_queue)) FROM gone)
        ON CONFLICT (task_id, step) DO UPDATE
       SET state = excluded.state, ended_at = excluded.ended_at, result = excluded.result, set_by = excluded.set_by,
           set_reason = excluded.set_reason";

columns!(SetSteps from s: SetStep {
    task_id: Uuid = s.task_id,
    step: i16 = s.step,
    state: &'a str = s.state.as_str(),
    in_queue: bool = s.in_queue,
    attempt: i32 = s.attempt,
    charged: i16 = s.charged,
    ready_at: SystemTime = s.ready_at,
    started_at: Option<SystemTime> = s.started_at,
    result: Option<&'a str> = s.result.as_deref(),
    code: Option<&'a str> = code(s.failure.as_ref()),
    message: Option<&'a str> = message(s.failure.as_ref()),
    context: Option<&'a str> = context(s.failure.as_ref()),
    by: &'a str = &s.by,
    reason: &'a str = &s.reason,
});
