//! Locks tasks' rows.

use std::{sync::Arc, time::SystemTime};

use tokio_postgres::Row;
use uuid::Uuid;

use crate::{
    domain::{
        progress::{Progress, StepSet},
        task::TaskState,
    },
    store::StoreError,
};

/// A task's row, locked until the transaction ends.
#[derive(Clone, Debug)]
pub struct TaskRow {
    pub task_id: Uuid,
    pub template_id: i32,
    pub priority: i16,
    pub progress: Progress,
    /// The adjustments by overrides and by its planner, as JSON.
    pub settings: Option<Arc<str>>,
    pub expires_at: Option<SystemTime>,
    /// Why it ended as a whole, if it did.
    pub error_code: Option<String>,
    /// Upper bound on the size of its documents; the largest number where that is unknown.
    pub bytes: i32,
    /// Changes whenever its settings, its notes or its priority change.
    pub revision: i32,
}

/// Also returns the time after each row was locked. A separate statement for the time would cost as
/// much as this one.
pub(in crate::store) const LOCK_TASKS: &str = "
    SELECT t.*, clock_timestamp()
      FROM (SELECT task_id, template_id, state::text, priority, steps_live, steps_done, failed_step, paused_at IS NOT NULL,
                   settings, expires_at, error_code, coalesce(documents_bytes, 2147483647), revision
              FROM tasks WHERE task_id = ANY($1::uuid[]) ORDER BY task_id FOR UPDATE) AS t";

/// A row of `LOCK_TASKS`.
pub(in crate::store) fn task_row(row: &Row) -> Result<TaskRow, StoreError> {
    let state: &str = row.get(2);
    let state = TaskState::from_name(state)
        .ok_or_else(|| StoreError::Corrupt(format!("task state `{state}`")))?;
    Ok(TaskRow {
        task_id: row.get(0),
        template_id: row.get(1),
        priority: row.get(3),
        progress: Progress {
            state,
            live: u16::try_from(row.get::<_, i16>(4)).unwrap_or_default(),
            done: StepSet::from_bytes(row.get(5)),
            failed_step: row
                .get::<_, Option<i16>>(6)
                .and_then(|step| u16::try_from(step).ok()),
            paused: row.get(7),
        },
        settings: row.get::<_, Option<String>>(8).map(Arc::from),
        expires_at: row.get(9),
        error_code: row.get(10),
        bytes: row.get(11),
        revision: row.get(12),
    })
}

/// The time after the row was locked.
pub(in crate::store) fn locked_at(row: &Row) -> SystemTime {
    row.get(13)
}
