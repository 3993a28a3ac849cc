//! Pauses and resumes tasks.

use uuid::Uuid;

use crate::store::pipeline::encode::columns;

/// A task to pause (`by` has the actor and the reason), or to resume (`by` is `None`).
#[derive(Clone, Debug)]
pub struct TaskPause {
    pub task_id: Uuid,
    pub by: Option<(String, String)>,
}

/// Pauses or resumes a task with all its rows in play. Running attempts continue; the pause applies
/// to the next ones.
pub(in crate::store) const PAUSE_TASKS: &str = "
    WITH u AS (
        SELECT u.*, t.tid
          FROM unnest($1::uuid[], $2::text[], $3::text[]) AS u(task_id, paused_by, reason)
         CROSS JOIN LATERAL (SELECT ctid AS tid FROM tasks WHERE task_id = u.task_id LIMIT 1) AS t
         LIMIT cardinality($1)),
    live AS (
        UPDATE queue q
           SET paused = u.paused_by IS NOT NULL,
               due = u.paused_by IS NULL AND q.lease IS NULL
                     AND coalesce(q.next_attempt_at <= coalesce($4::timestamptz, now()), true)
          FROM (SELECT u.paused_by, q.tid
                  FROM u CROSS JOIN LATERAL (SELECT ctid AS tid FROM queue WHERE task_id = u.task_id LIMIT 1000) AS q
                 LIMIT cardinality($1) * 1000) AS u
         WHERE q.ctid = u.tid),
    paused AS (
        UPDATE tasks t
           SET paused_at = CASE WHEN u.paused_by IS NOT NULL THEN coalesce($4::timestamptz, now()) END,
               paused_by = u.paused_by, pause_reason = u.reason
          FROM u WHERE t.ctid = u.tid
        RETURNING 1)
    SELECT expect_rows('paused tasks', count(*), cardinality($1::uuid[])) FROM paused";

columns!(TaskPauses from pause: TaskPause {
    task_id: Uuid = pause.task_id,
    by: Option<&'a str> = pause.by.as_ref().map(|(by, _)| by.as_str()),
    reason: Option<&'a str> = pause.by.as_ref().map(|(_, reason)| reason.as_str()),
});
