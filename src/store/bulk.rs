//! The tasks that a bulk order addresses.

use std::{fmt::Write as _, time::SystemTime};

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{
    Db, StoreError,
    task::{ID_CLOCK_MARGIN, id_at},
};
use crate::domain::task::TaskState;

/// Bound on the counted tasks.
pub const MAX_COUNTED: i64 = 1_000_000;

/// The selection of tasks.
#[derive(Clone, Debug, Default)]
pub struct BulkFilter {
    /// `None` for all templates.
    pub templates: Option<Vec<i32>>,
    pub states: Vec<TaskState>,
    pub paused: Option<bool>,
    pub correlation_id: Option<String>,
    /// The error code of the step that failed first, or of the task.
    pub error_code: Option<String>,
    pub failed_after: Option<SystemTime>,
    pub submitted_after: Option<SystemTime>,
    pub submitted_before: Option<SystemTime>,
}

/// Number of selected tasks, up to [`MAX_COUNTED`].
pub async fn count(db: &Db, filter: &BulkFilter) -> Result<i64, StoreError> {
    let rows = select(
        db,
        filter,
        "SELECT count(*) FROM (SELECT 1",
        Uuid::nil(),
        MAX_COUNTED,
        ") AS found",
    )
    .await?;
    Ok(rows.first().map_or(0, |row| row.get(0)))
}

/// The next selected tasks after `after`, by id.
pub async fn page(
    db: &Db,
    filter: &BulkFilter,
    after: Uuid,
    limit: i64,
) -> Result<Vec<Uuid>, StoreError> {
    let rows = select(db, filter, "SELECT t.task_id", after, limit, "").await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

async fn select(
    db: &Db,
    filter: &BulkFilter,
    head: &str,
    after: Uuid,
    limit: i64,
    tail: &str,
) -> Result<Vec<tokio_postgres::Row>, StoreError> {
    let states: Vec<&str> = filter.states.iter().map(|state| state.as_str()).collect();
    let since = filter
        .submitted_after
        .map(|at| id_at(at, ID_CLOCK_MARGIN, false));
    let until = filter
        .submitted_before
        .map(|at| id_at(at, ID_CLOCK_MARGIN, true));
    // A condition that the filter implies and a small index covers.
    let rare = match filter.states.as_slice() {
        [TaskState::Error] => "(t.failed_step IS NOT NULL OR t.error_code IS NOT NULL)",
        _ if filter.paused == Some(true) => "t.paused_at IS NOT NULL",
        _ => "EXISTS (SELECT FROM queue q WHERE q.task_id = t.task_id)",
    };
    let mut sql = format!(
        "{head} FROM tasks t LEFT JOIN steps f ON f.task_id = t.task_id AND f.step = t.failed_step
          WHERE t.steps_total > 0 AND {rare} AND t.state::text = ANY($1::text[]) AND t.task_id > $2"
    );
    let mut params: Vec<&(dyn ToSql + Sync)> = vec![&states, &after];
    macro_rules! and {
        ($condition:literal, $value:expr, $end:literal) => {
            if let Some(value) = &$value {
                params.push(value);
                let _ = write!(
                    sql,
                    concat!(" AND ", $condition, " ${}", $end),
                    params.len()
                );
            }
        };
    }
    and!("t.template_id = ANY(", filter.templates, "::int4[])");
    and!("(t.paused_at IS NOT NULL) =", filter.paused, "");
    and!("t.correlation_id =", filter.correlation_id, "");
    and!(
        "coalesce(t.error_code, f.error_code) =",
        filter.error_code,
        ""
    );
    and!("t.ended_at >=", filter.failed_after, "");
    and!("t.submitted_at >=", filter.submitted_after, "");
    and!("t.task_id >=", since, "");
    and!("t.submitted_at <", filter.submitted_before, "");
    and!("t.task_id <=", until, "");
    let order = if tail.is_empty() {
        "ORDER BY t.task_id "
    } else {
        ""
    };
    params.push(&limit);
    let _ = write!(sql, " {order}LIMIT ${}{tail}", params.len());
    let client = db.read().await?;
    client.query(&sql, &params).await
}
