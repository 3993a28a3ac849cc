//! The data of a task that its trace needs.

use std::{collections::HashMap, time::SystemTime};

use uuid::Uuid;

use super::{Db, StoreError};

/// A task for its spans and its log lines.
#[derive(Clone, Debug)]
pub struct Traced {
    pub traceparent: Option<String>,
    pub correlation_id: String,
    pub submitted_at: SystemTime,
    pub ended_at: Option<SystemTime>,
}

/// The data of those tasks that still exist.
pub async fn tasks(db: &Db, ids: &[Uuid]) -> Result<HashMap<Uuid, Traced>, StoreError> {
    let client = db.read().await?;
    let statement = client
        .prepare_cached(
            "SELECT t.task_id, t.traceparent, t.correlation_id, t.submitted_at, t.ended_at
               FROM unnest($1::uuid[]) AS u(id)
              CROSS JOIN LATERAL (SELECT * FROM tasks WHERE task_id = u.id LIMIT 1) AS t",
        )
        .await?;
    let rows = client.query(&statement, &[&ids]).await?;
    let traced = |row: &tokio_postgres::Row| Traced {
        traceparent: row.get(1),
        correlation_id: row.get(2),
        submitted_at: row.get(3),
        ended_at: row.get(4),
    };
    Ok(rows.iter().map(|row| (row.get(0), traced(row))).collect())
}
