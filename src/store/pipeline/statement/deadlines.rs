//! Stores and deletes the deadlines of tasks.

use std::time::SystemTime;

use uuid::Uuid;

use super::insert_tasks::NewTask;
use crate::store::pipeline::encode::columns;

/// Stores the deadlines of tasks.
pub(in crate::store) const SET_DEADLINES: &str = "
    INSERT INTO task_deadlines (task_id, expires_at) SELECT * FROM unnest($1::uuid[], $2::timestamptz[])";

columns!(Deadlines from t: NewTask {
    task_id: Uuid = t.task_id,
    expires_at: Option<SystemTime> = t.expires_at,
});

/// Deletes deadlines that are no longer watched.
pub(in crate::store) const DROP_DEADLINES: &str = "
    DELETE FROM task_deadlines d
     USING (SELECT d.tid
              FROM unnest($1::uuid[]) AS u(task_id)
             CROSS JOIN LATERAL (SELECT ctid AS tid FROM task_deadlines WHERE task_id = u.task_id LIMIT 1) AS d
             LIMIT cardinality($1)) AS u
     WHERE d.ctid = u.tid";

columns!(DroppedDeadlines from task: Uuid {
    task_id: Uuid = *task,
});
