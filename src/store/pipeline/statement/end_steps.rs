//! Ends steps for good.

use std::time::SystemTime;

use uuid::Uuid;

use crate::{
    domain::{attempt::Failure, step::StepState},
    store::pipeline::encode::{code, columns, context, message},
};

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

/// The lease in the predicate is the fence: an outdated attempt matches no row, and then nothing is
/// written. A step without a lease ends only with its whole task, and $15 lists those tasks.
pub(in crate::store) const END_STEPS: &str = "
    WITH gone AS (
        DELETE FROM queue
         WHERE task_id = ANY($1::uuid[]) AND (lease = ANY($3::int8[]) OR lease IS NULL AND task_id = ANY($15::uuid[]))
        RETURNING 1)
    INSERT INTO steps (task_id, step, state, attempt, charged, result, error_code, error_message, error_context, ready_at,
                       started_at, ended_at)
    SELECT u.task_id, u.step, u.state::step_state, u.attempt, u.charged, u.result, u.code, u.message, u.context, u.ready_at,
           u.started_at, coalesce($13::timestamptz, now())
      FROM unnest($1::uuid[], $2::int2[], $4::text[], $5::int4[], $6::int2[], $7::text[], $8::text[], $9::text[], $10::text[],
                  $11::timestamptz[], $12::timestamptz[])
           AS u(task_id, step, state, attempt, charged, result, code, message, context, ready_at, started_at)
     WHERE (SELECT expect_rows('ended steps in queue', count(*), $14) FROM gone)";

columns!(EndedSteps from e: Ended {
    task_id: Uuid = e.task_id,
    step: i16 = e.step,
    lease: Option<i64> = e.lease,
    state: &'a str = e.state.as_str(),
    attempt: i32 = e.attempt,
    charged: i16 = e.charged,
    result: Option<&'a str> = e.result.as_deref(),
    code: Option<&'a str> = code(e.failure.as_ref()),
    message: Option<&'a str> = message(e.failure.as_ref()),
    context: Option<&'a str> = context(e.failure.as_ref()),
    ready_at: SystemTime = e.ready_at,
    started_at: Option<SystemTime> = e.started_at,
});
