//! Documents of tasks, read outside the engine's transactions. Committed documents never change.

use uuid::Uuid;

use super::{
    Db, StoreError,
    pipeline::{
        TaskInput, WantedInputs,
        statement::inputs::{RESULT_INPUTS, TASK_INPUTS, result_input, task_input},
    },
};

/// Bound on the sum of the results' sizes; beyond it no result is read.
pub const MAX_RESULTS_BYTES: i64 = 16 << 20;

/// The documents that were read.
#[derive(Debug, Default)]
pub struct Documents {
    pub tasks: Vec<TaskInput>,
    /// (task, step, JSON)
    pub results: Vec<(Uuid, i16, String)>,
    /// The sum of the results exceeds [`MAX_RESULTS_BYTES`], so they were not read.
    pub too_large: bool,
}

/// Reads contexts, annotations and results.
pub async fn read(db: &Db, wanted: &WantedInputs) -> Result<Documents, StoreError> {
    let client = db.read().await?;
    let mut found = Documents::default();
    if !wanted.tasks.is_empty() {
        let statement = client.prepare_cached(TASK_INPUTS).await?;
        let tasks: Vec<Uuid> = wanted.tasks.iter().map(|(task_id, _)| *task_id).collect();
        found.tasks = client
            .query(&statement, &[&tasks])
            .await?
            .iter()
            .map(task_input)
            .collect();
    }
    if wanted.results.is_empty() {
        return Ok(found);
    }
    let (tasks, steps): (Vec<Uuid>, Vec<i16>) = wanted.results.iter().copied().unzip();
    let sum = client
        .prepare_cached(
            "SELECT coalesce(sum(octet_length(s.result)), 0)::int8
               FROM unnest($1::uuid[], $2::int2[]) AS u(task_id, step)
              CROSS JOIN LATERAL (SELECT result FROM steps WHERE task_id = u.task_id AND step = u.step LIMIT 1) AS s",
        )
        .await?;
    if client
        .query_one(&sum, &[&tasks, &steps])
        .await?
        .get::<_, i64>(0)
        > MAX_RESULTS_BYTES
    {
        return Ok(Documents {
            too_large: true,
            ..found
        });
    }
    let statement = client.prepare_cached(RESULT_INPUTS).await?;
    let rows = client.query(&statement, &[&tasks, &steps]).await?;
    found.results = rows.iter().map(result_input).collect();
    Ok(found)
}

/// The template of a task.
pub async fn template_of(db: &Db, task_id: Uuid) -> Result<Option<i32>, StoreError> {
    let client = db.read().await?;
    let statement = client
        .prepare_cached("SELECT template_id FROM tasks WHERE task_id = $1")
        .await?;
    Ok(client
        .query_opt(&statement, &[&task_id])
        .await?
        .map(|row| row.get(0)))
}
