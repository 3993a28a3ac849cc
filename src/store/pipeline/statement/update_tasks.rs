//! Writes the new values of tasks' rows.

use std::{sync::Arc, time::SystemTime};

use uuid::Uuid;

use crate::{
    domain::{progress::Progress, task::TaskState},
    store::pipeline::encode::columns,
};

/// New values of a task's row, which the transaction has locked or checks by `expected`.
#[derive(Clone, Debug)]
pub struct TaskUpdate {
    pub task_id: Uuid,
    pub state: TaskState,
    pub steps_live: i16,
    pub steps_done: Vec<u8>,
    pub failed_step: Option<i16>,
    pub cancelled: Option<(String, String)>,
    /// The values that the row must have before the update, where it is not locked and the values
    /// come from the cache.
    pub expected: Option<Progress>,
    /// Upper bound on the size of its documents.
    pub bytes: i32,
    pub kept: Kept,
}

/// Further columns of a task's row, which this update does not write.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    pub template_id: i32,
    pub priority: i16,
    pub settings: Option<Arc<str>>,
    pub revision: i32,
    pub expires_at: Option<SystemTime>,
}

/// A row that is not locked may differ from the `old_...` columns, and then it does not match; if
/// it changes during the statement, it is no longer at that `ctid`.
pub(in crate::store) const UPDATE_TASKS: &str = "
    WITH updated AS (
        UPDATE tasks t
           SET state = u.state::task_state, steps_live = u.live, steps_done = u.done, failed_step = u.failed,
               cancelled_by = u.cancelled_by, cancel_reason = u.reason, documents_bytes = u.bytes,
               started_at = CASE WHEN u.state IN ('in_progress', 'complete') THEN coalesce(t.started_at, $12::timestamptz, now())
                                 ELSE t.started_at END,
               ended_at = CASE WHEN u.state NOT IN ('pending', 'in_progress') THEN coalesce($12::timestamptz, now()) END
          FROM (SELECT u.*, t.tid
                  FROM unnest($1::uuid[], $2::text[], $3::int2[], $4::bytea[], $5::int2[], $6::text[], $7::text[],
                              $8::text[], $9::int2[], $10::bytea[], $11::int4[])
                       AS u(task_id, state, live, done, failed, cancelled_by, reason, old_state, old_live, old_done,
                            bytes)
                 CROSS JOIN LATERAL (
                       SELECT ctid AS tid FROM tasks
                        WHERE task_id = u.task_id
                          AND (u.old_done IS NULL
                               OR state::text = u.old_state AND steps_live = u.old_live AND steps_done = u.old_done
                                  AND ended_at IS NULL AND paused_at IS NULL)
                        LIMIT 1) AS t
                 LIMIT cardinality($1)) AS u
         WHERE t.ctid = u.tid
        RETURNING 1)
    SELECT expect_rows('tasks', count(*), $13), now() FROM updated";

columns!(UpdatedTasks from t: TaskUpdate {
    task_id: Uuid = t.task_id,
    state: &'a str = t.state.as_str(),
    live: i16 = t.steps_live,
    done: &'a [u8] = &t.steps_done,
    failed_step: Option<i16> = t.failed_step,
    cancelled_by: Option<&'a str> = t.cancelled.as_ref().map(|(by, _)| by.as_str()),
    reason: Option<&'a str> = t.cancelled.as_ref().map(|(_, reason)| reason.as_str()),
    old_state: Option<&'a str> = t.expected.as_ref().map(|old| old.state.as_str()),
    old_live: Option<i16> =
        t.expected.as_ref().map(|old| i16::try_from(old.live).unwrap_or(i16::MAX)),
    old_done: Option<&'a [u8]> = t.expected.as_ref().map(|old| old.done.as_bytes()),
    bytes: i32 = t.bytes,
});
