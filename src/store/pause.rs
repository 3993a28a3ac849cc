//! Pauses of whole templates and namespaces.

use std::time::SystemTime;

use tokio_postgres::Row;

use super::{Db, StoreError, service::Actor};

/// A namespace, or a template in all its versions, of which nothing starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PauseRow {
    pub namespace: String,
    /// Empty for the namespace.
    pub task_name: String,
    pub at: SystemTime,
    pub by: String,
    pub reason: String,
}

/// All of them, by namespace and name.
pub async fn list(db: &Db) -> Result<Vec<PauseRow>, StoreError> {
    let client = db.read().await?;
    let sql = "SELECT namespace, task_name, paused_at, paused_by, reason FROM pauses ORDER BY namespace, task_name";
    Ok(client
        .query(&client.prepare_cached(sql).await?, &[])
        .await?
        .iter()
        .map(row)
        .collect())
}

/// So many of them after a namespace and name, in that order.
pub async fn page(db: &Db, after: (&str, &str), limit: i64) -> Result<Vec<PauseRow>, StoreError> {
    let client = db.read().await?;
    let sql = "SELECT namespace, task_name, paused_at, paused_by, reason FROM pauses
                WHERE (namespace, task_name) > ($1, $2) ORDER BY namespace, task_name LIMIT $3";
    let statement = client.prepare_cached(sql).await?;
    let (namespace, task_name) = after;
    let rows = client
        .query(&statement, &[&namespace, &task_name, &limit])
        .await?;
    Ok(rows.iter().map(row).collect())
}

/// The services of the namespace get another gate, so that no claim comes through that does not know of the pause.
const CHANGED: &str = "
    WITH s AS (UPDATE services SET gate = gate + 1 WHERE namespace = $1)
    INSERT INTO events (at, type, template_id, actor, detail)
    VALUES (clock_timestamp(), $3::text::event_type,
            (SELECT max(template_id) FROM templates WHERE namespace = $1 AND task_name = $2), $4,
            CASE WHEN $2 = '' THEN 'namespace ' || $1 ELSE $1 || '/' || $2 END || ': ' || $5)";

/// Pauses, unless it is paused already; returns how it is then. A claim that began before may still be made when this returns;
/// [`claims_under_way`] lists those, and [`have_ended`] says when none can any more.
pub async fn set(
    db: &Db,
    namespace: &str,
    task_name: &str,
    actor: &Actor,
    wake: &str,
) -> Result<PauseRow, StoreError> {
    let mut client = db.read().await?;
    let tx = client.transaction().await?;
    let insert = "INSERT INTO pauses (namespace, task_name, paused_at, paused_by, reason)
                  VALUES ($1, $2, clock_timestamp(), $3, $4) ON CONFLICT DO NOTHING";
    if tx
        .execute(insert, &[&namespace, &task_name, &actor.by, &actor.reason])
        .await?
        > 0
    {
        let values: [&(dyn tokio_postgres::types::ToSql + Sync); 5] = [
            &namespace,
            &task_name,
            &"pause.set",
            &actor.by,
            &actor.reason,
        ];
        tx.execute(CHANGED, &values).await?;
        tx.execute("SELECT pg_notify($1, $2)", &[&db.channel(), &wake])
            .await?;
    }
    let select = "SELECT namespace, task_name, paused_at, paused_by, reason FROM pauses
                   WHERE namespace = $1 AND task_name = $2";
    let pause = row(&tx.query_one(select, &[&namespace, &task_name]).await?);
    tx.commit().await?;
    Ok(pause)
}

/// Who may be writing to the cell's queue at a moment.
const WRITERS: &str = "FROM pg_locks
    WHERE locktype = 'relation' AND relation = 'queue'::regclass AND mode = 'RowExclusiveLock' AND pid IS NOT NULL
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// The transactions that write to the cell's queue, by their virtual ids. A claim takes its lock on the table before it looks
/// at the gates, so one that has not seen a pause that is committed is among them. Locks say it whatever a connection is
/// called, whoever its role is, and of this cell alone.
pub async fn claims_under_way(db: &Db) -> Result<Vec<String>, StoreError> {
    let client = db.read().await?;
    let sql = format!("SELECT DISTINCT virtualtransaction {WRITERS}");
    Ok(client
        .query(&client.prepare_cached(&sql).await?, &[])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect())
}

/// Whether all of these have ended.
pub async fn have_ended(db: &Db, claims: &[String]) -> Result<bool, StoreError> {
    let client = db.read().await?;
    let sql = format!("SELECT NOT EXISTS (SELECT {WRITERS} AND virtualtransaction = ANY($1))");
    Ok(client
        .query_one(&client.prepare_cached(&sql).await?, &[&claims])
        .await?
        .get(0))
}

/// Lifts a pause. `false` when there was none.
pub async fn lift(
    db: &Db,
    namespace: &str,
    task_name: &str,
    actor: &Actor,
    wake: &str,
) -> Result<bool, StoreError> {
    let mut client = db.read().await?;
    let tx = client.transaction().await?;
    let delete = "DELETE FROM pauses WHERE namespace = $1 AND task_name = $2";
    if tx.execute(delete, &[&namespace, &task_name]).await? == 0 {
        return Ok(false);
    }
    let values: [&(dyn tokio_postgres::types::ToSql + Sync); 5] = [
        &namespace,
        &task_name,
        &"pause.lifted",
        &actor.by,
        &actor.reason,
    ];
    tx.execute(CHANGED, &values).await?;
    tx.execute("SELECT pg_notify($1, $2)", &[&db.channel(), &wake])
        .await?;
    tx.commit().await?;
    Ok(true)
}

fn row(r: &Row) -> PauseRow {
    PauseRow {
        namespace: r.get(0),
        task_name: r.get(1),
        at: r.get(2),
        by: r.get(3),
        reason: r.get(4),
    }
}
