//! The queries of a measurement: the time, the counters, and the completed work.

use std::time::SystemTime;

use uuid::Uuid;

use crate::store::{Db, StoreError};

/// A point in the database's time.
#[derive(Clone, Debug)]
pub struct Mark {
    pub at: SystemTime,
    /// A lower bound on the numbers of transactions that start later.
    pub xid: String,
    /// Commits of this database. Sessions report theirs about once a second.
    pub commits: i64,
    /// The process that served this query.
    pub backend: i32,
}

/// The current mark.
pub async fn mark(db: &Db) -> Result<Mark, StoreError> {
    let client = db.patient().await?;
    let row = client
        .query_one(
            "SELECT clock_timestamp(), pg_snapshot_xmin(pg_current_snapshot())::text, xact_commit, pg_backend_pid()
               FROM pg_stat_database WHERE datname = current_database()",
            &[],
        )
        .await?;
    Ok(Mark {
        at: row.get(0),
        xid: row.get(1),
        commits: row.get(2),
        backend: row.get(3),
    })
}

/// The engine's completed work between two marks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub steps: i64,
    pub tasks: i64,
}

/// The steps and tasks of a template that completed between two marks.
pub async fn done(db: &Db, template_id: i32, from: &Mark, to: &Mark) -> Result<Done, StoreError> {
    let client = db.patient().await?;
    let row = client
        .query_one(
            "SELECT count(*) FILTER (WHERE type = 'step.completed'), count(*) FILTER (WHERE type = 'task.completed')
               FROM events WHERE xid >= $1::text::xid8 AND at >= $2 AND at < $3 AND template_id = $4",
            &[&from.xid, &from.at, &to.at, &template_id],
        )
        .await?;
    Ok(Done {
        steps: row.get(0),
        tasks: row.get(1),
    })
}

/// The current snapshot.
pub async fn snapshot(db: &Db) -> Result<String, StoreError> {
    let client = db.patient().await?;
    Ok(client
        .query_one("SELECT pg_current_snapshot()::text", &[])
        .await?
        .get(0))
}

/// Number of events that a snapshot does not see.
pub async fn events_since(db: &Db, snapshot: &str) -> Result<u64, StoreError> {
    let client = db.patient().await?;
    let sql = "SELECT count(*) FROM events
                WHERE xid >= pg_snapshot_xmin($1::text::pg_snapshot)
                  AND NOT pg_visible_in_snapshot(xid, $1::text::pg_snapshot)";
    let count: i64 = client.query_one(sql, &[&snapshot]).await?.get(0);
    Ok(count.unsigned_abs())
}

/// Number of steps of a template in play.
pub async fn in_play(db: &Db, template_id: i32) -> Result<i64, StoreError> {
    let client = db.patient().await?;
    Ok(client
        .query_one(
            "SELECT count(*) FROM queue WHERE template_id = $1",
            &[&template_id],
        )
        .await?
        .get(0))
}

/// The complete tasks of a template from the id `from` on, each with its number of complete steps.
pub async fn complete_tasks(
    db: &Db,
    template_id: i32,
    from: Uuid,
) -> Result<Vec<(Uuid, i64)>, StoreError> {
    let client = db.patient().await?;
    let rows = client
        .query(
            "SELECT t.task_id, (SELECT count(*) FROM steps s WHERE s.task_id = t.task_id AND s.state = 'complete')
               FROM tasks t WHERE t.template_id = $1 AND t.task_id >= $2 AND t.state = 'complete'",
            &[&template_id, &from],
        )
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Every ended attempt at a step of these templates, for tasks from the id `from` on.
pub async fn attempts(
    db: &Db,
    templates: &[i32],
    from: Uuid,
) -> Result<Vec<(Uuid, String, i32)>, StoreError> {
    let client = db.patient().await?;
    let rows = client
        .query(
            "SELECT e.task_id, d.name, e.attempt
               FROM events e JOIN template_steps d ON d.template_id = e.template_id AND d.step = e.step
              WHERE e.task_id >= $2 AND e.outcome IS NOT NULL AND e.attempt > 0 AND e.template_id = ANY($1::int4[])",
            &[&templates, &from],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect())
}
