//! The list of tasks.

use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

use futures_util::future::try_join3;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{TASK, Task, task_of};
use crate::{
    domain::task::TaskState,
    store::{Db, StoreError},
};

/// The selection of tasks to list.
#[derive(Clone, Debug, Default)]
pub struct TaskFilter {
    /// `None` for all templates.
    pub templates: Option<Vec<i32>>,
    /// Empty for all.
    pub states: Vec<TaskState>,
    pub correlation_id: Option<String>,
    pub submitted_after: Option<SystemTime>,
    pub submitted_before: Option<SystemTime>,
    /// Only tasks older than this one: the last task of the page before.
    pub before: Option<Uuid>,
    pub limit: i64,
}

/// A page of tasks, newest first, without their contexts and those of their errors.
pub async fn list(db: &Db, filter: &TaskFilter) -> Result<Vec<Task>, StoreError> {
    let task = TASK.replace("f.error_context", "NULL::text");
    let mut sql = format!(
        "{task} FROM tasks t LEFT JOIN steps f ON f.task_id = t.task_id AND f.step = t.failed_step WHERE t.steps_total > 0"
    );
    let mut params: Vec<&(dyn ToSql + Sync)> = Vec::new();
    let states: Vec<&str> = filter.states.iter().map(|s| s.as_str()).collect();
    // Ids contain the clock of the submitting server. Within this margin they bound the time of
    // submission, so a range of time is a range of the primary key.
    let after = filter
        .submitted_after
        .map(|at| (at, id_at(at, ID_CLOCK_MARGIN, false)));
    let before = filter
        .submitted_before
        .map(|at| (at, id_at(at, ID_CLOCK_MARGIN, true)));
    let mut push = |text: &str, n: usize| {
        let _ = write!(sql, " AND {}", text.replace("$?", &format!("${n}")));
    };
    if let Some(templates) = &filter.templates {
        params.push(templates);
        push("t.template_id = ANY($?::int4[])", params.len());
    }
    if let Some(id) = &filter.correlation_id {
        params.push(id);
        push("t.correlation_id = $?", params.len());
    }
    if let Some((at, id)) = &after {
        params.push(at);
        push("t.submitted_at >= $?", params.len());
        params.push(id);
        push("t.task_id >= $?", params.len());
    }
    if let Some((at, id)) = &before {
        params.push(at);
        push("t.submitted_at < $?", params.len());
        params.push(id);
        push("t.task_id <= $?", params.len());
    }
    if let Some(before) = &filter.before {
        params.push(before);
        push("t.task_id < $?", params.len());
    }
    if !states.is_empty() {
        params.push(&states);
        push("t.state::text = ANY($?::text[])", params.len());
        if let Some(rare) = rare_states(&filter.states) {
            push(rare, 0);
        }
    }
    params.push(&filter.limit);
    let _ = write!(sql, " ORDER BY t.task_id DESC LIMIT ${}", params.len());
    let client = db.read().await?;
    let statement = client.prepare_cached(&sql).await?;
    // The best index depends on the filter, so this statement is planned each time.
    let (_, rows, _) = try_join3(
        client.batch_execute("BEGIN READ ONLY; SET LOCAL plan_cache_mode = force_custom_plan"),
        client.query(&statement, &params),
        client.batch_execute("COMMIT"),
    )
    .await?;
    rows.iter().map(task_of).collect()
}

/// The deviation of a server's clock beyond which a time filter could miss one of its tasks.
pub(in crate::store) const ID_CLOCK_MARGIN: Duration = Duration::from_secs(3_600);

/// The bound on ids made at `at`, with a margin.
pub(in crate::store) fn id_at(at: SystemTime, margin: Duration, later: bool) -> Uuid {
    let since = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let since = if later {
        since + margin
    } else {
        since.saturating_sub(margin)
    };
    let millis = u64::try_from(since.as_millis())
        .unwrap_or(u64::MAX)
        .min((1 << 48) - 1);
    let mut bytes = [if later { 0xff } else { 0 }; 16];
    bytes[..6].copy_from_slice(&millis.to_be_bytes()[2..]);
    Uuid::from_bytes(bytes)
}

/// A condition that every task in these states fulfils and a small index covers.
fn rare_states(states: &[TaskState]) -> Option<&'static str> {
    let all = |allowed: &[TaskState]| states.iter().all(|s| allowed.contains(s));
    if all(&[TaskState::Error]) {
        Some("(t.failed_step IS NOT NULL OR t.error_code IS NOT NULL)")
    } else if all(&[TaskState::Cancelled]) {
        Some("t.cancelled_by IS NOT NULL")
    } else if all(&[TaskState::Pending, TaskState::InProgress]) {
        Some("t.task_id IN (SELECT q.task_id FROM queue q)")
    } else {
        None
    }
}
