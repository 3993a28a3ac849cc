//! Ready steps whose assignment exceeds what every connected worker accepts.

use std::time::Duration;

use uuid::Uuid;

use super::{Db, StoreError};
use crate::domain::size::MAX_ASSIGNMENT_BYTES;

/// A step for which no suitable worker is connected.
#[derive(Clone, Debug)]
pub struct Stranded {
    pub task_id: Uuid,
    pub step: i16,
    pub handler: String,
    /// Upper bound on the size of its assignment.
    pub bytes: i32,
    /// The largest assignment that a connected worker of its handler accepts; 0 when there is no
    /// worker.
    pub largest: i32,
}

/// This walks an index of large steps only. A worker that was connected within the last lease may
/// come back. While no worker of the handler is connected at all, a step waits like any other,
/// except one that exceeds the maximum for every worker.
const FIND: &str = "
    SELECT q.task_id, q.step, l.handler, q.assignment_bytes, coalesce(w.largest, 0)
      FROM queue q
      JOIN lanes l ON l.lane_id = q.lane_id
     CROSS JOIN LATERAL (
           SELECT max(max_assignment_bytes) FILTER (WHERE ended_at IS NULL AND NOT draining) AS largest,
                  max(max_assignment_bytes) FILTER (WHERE coalesce(ended_at > clock_timestamp() - make_interval(secs => $1), true))
                      AS lately
             FROM workers
            WHERE l.handler = ANY(handlers) AND (namespaces = '{}' OR l.namespace = ANY(namespaces))) AS w
     WHERE q.assignment_bytes IS NOT NULL AND q.due AND q.ready_at < clock_timestamp() - make_interval(secs => $1)
       AND (q.assignment_bytes > w.lately AND w.largest IS NOT NULL OR q.assignment_bytes > $3)
     ORDER BY q.task_id, q.step LIMIT $2";

/// Steps that have been ready for the length of `lease` and exceed what any worker of that time
/// accepts.
pub async fn find(db: &Db, lease: Duration, limit: i64) -> Result<Vec<Stranded>, StoreError> {
    let client = db.read().await?;
    let statement = client.prepare_cached(FIND).await?;
    let rows = client
        .query(
            &statement,
            &[&lease.as_secs_f64(), &limit, &MAX_ASSIGNMENT_BYTES],
        )
        .await?;
    let stranded = |row: &tokio_postgres::Row| Stranded {
        task_id: row.get(0),
        step: row.get(1),
        handler: row.get(2),
        bytes: row.get(3),
        largest: row.get(4),
    };
    Ok(rows.iter().map(stranded).collect())
}
