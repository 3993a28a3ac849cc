//! Steps that are ready and whose assignment no connected worker takes.

use std::time::Duration;

use uuid::Uuid;

use super::{Db, StoreError};
use crate::domain::size::MAX_ASSIGNMENT_BYTES;

/// A step that waits for a worker that is not there.
#[derive(Clone, Debug)]
pub struct Stranded {
    pub task_id: Uuid,
    pub step: i16,
    pub handler: String,
    /// What its assignment weighs at most.
    pub bytes: i32,
    /// The largest that a connected worker of its handler takes; 0 when there is none.
    pub largest: i32,
}

/// Only large steps are in the index that this walks through. A worker that was there within the last lease may come back. As long
/// as no worker of the handler is connected at all, a step waits like every other; but for one that none could ever take.
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

/// Steps that have waited for `lease` and that no worker has taken, as none was connected for so long that takes as much.
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
