//! Reads the documents that handlers need: those of tasks and the results of ancestors.

use std::sync::Arc;

use tokio_postgres::Row;
use uuid::Uuid;

use crate::store::pipeline::encode::columns;

/// The documents to read for the steps that are claimed.
#[derive(Clone, Debug, Default)]
pub struct WantedInputs {
    /// Each with the lowest revision that is accepted.
    pub tasks: Vec<(Uuid, i32)>,
    pub results: Vec<(Uuid, i16)>,
}

/// The documents of a task one of whose steps was claimed.
#[derive(Clone, Debug)]
pub struct TaskInput {
    pub task_id: Uuid,
    pub correlation_id: String,
    pub traceparent: Option<String>,
    pub annotations: String,
    pub context: String,
    pub settings: Option<Arc<str>>,
    pub revision: i32,
}

impl TaskInput {
    /// Size of its documents.
    pub fn bytes(&self) -> usize {
        self.context.len() + self.annotations.len() + self.settings.as_deref().map_or(0, str::len)
    }
}

/// The documents of the claimed steps' tasks, for their handlers.
pub(in crate::store) const TASK_INPUTS: &str = "
    SELECT task_id, correlation_id, traceparent, annotations, context, settings, revision
      FROM tasks WHERE task_id = ANY($1::uuid[])";

columns!(WantedTasks from task: (Uuid, i32) {
    task_id: Uuid = task.0,
});

/// A row of `TASK_INPUTS`.
pub(in crate::store) fn task_input(row: &Row) -> TaskInput {
    TaskInput {
        task_id: row.get(0),
        correlation_id: row.get(1),
        traceparent: row.get(2),
        annotations: row.get(3),
        context: row.get(4),
        settings: row.get::<_, Option<String>>(5).map(Arc::from),
        revision: row.get(6),
    }
}

/// The results of the claimed steps' ancestors. A skipped step has none, which its children see as
/// null.
pub(in crate::store) const RESULT_INPUTS: &str = "
    SELECT s.task_id, s.step, s.result
      FROM unnest($1::uuid[], $2::int2[]) AS u(task_id, step)
     CROSS JOIN LATERAL (
           SELECT task_id, step, coalesce(result, 'null') AS result FROM steps
            WHERE task_id = u.task_id AND step = u.step AND state IN ('complete', 'skipped', 'resolved_manually')
            LIMIT 1) AS s";

columns!(WantedResults from result: (Uuid, i16) {
    task_id: Uuid = result.0,
    step: i16 = result.1,
});

/// A row of `RESULT_INPUTS`: task, step, JSON.
pub(in crate::store) fn result_input(row: &Row) -> (Uuid, i16, String) {
    (row.get(0), row.get(1), row.get(2))
}

/// Sizes of documents in bytes, without reading the documents: the task's own for a negative
/// position, else those of a step's result.
pub(in crate::store) const SIZES: &str = "
    SELECT u.task_id, u.step, b.bytes
      FROM unnest($1::uuid[], $2::int2[]) AS u(task_id, step)
     CROSS JOIN LATERAL (
          (SELECT octet_length(context) + octet_length(annotations) + coalesce(octet_length(settings), 0) AS bytes FROM tasks
            WHERE task_id = u.task_id AND u.step < 0 LIMIT 1)
           UNION ALL
          (SELECT coalesce(octet_length(result), 4) FROM steps
            WHERE task_id = u.task_id AND step = u.step AND state IN ('complete', 'skipped', 'resolved_manually')
            LIMIT 1)) AS b";
