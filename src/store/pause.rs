//! Pauses of whole templates and namespaces.

use std::time::SystemTime;

use tokio_postgres::Row;

use super::{Db, StoreError, service::Actor};

/// A pause of a namespace, or of a template in all its versions: none of its steps starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PauseRow {
    pub namespace: String,
    /// Empty for a pause of the namespace.
    pub task_name: String,
    pub at: SystemTime,
    pub by: String,
    pub reason: String,
}

/// All pauses, by namespace and name.
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

/// At most `limit` pauses after a namespace and name, in that order.
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

/// The services of the namespace get another admission version, so that a claim that does not know
/// of the pause fails.
const CHANGED: &str = "
    WITH s AS (UPDATE services SET version = version + 1 WHERE namespace = $1)
    INSERT INTO events (at, type, template_id, actor, detail)
    VALUES (clock_timestamp(), $3::text::event_type,
            (SELECT max(template_id) FROM templates WHERE namespace = $1 AND task_name = $2), $4,
            CASE WHEN $2 = '' THEN 'namespace ' || $1 ELSE $1 || '/' || $2 END || ': ' || $5)";

/// Sets a pause, unless there is one already; returns the pause in force. A claim that began before
/// may still commit after this returns; [`claims_under_way`] lists those transactions, and
/// [`have_ended`] checks that all of them have ended.
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

/// The locks of transactions that may be writing to the cell's queue.
const WRITERS: &str = "FROM pg_locks
    WHERE locktype = 'relation' AND relation = 'queue'::regclass AND mode = 'RowExclusiveLock' AND pid IS NOT NULL
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

/// The transactions that write to the cell's queue, by their virtual ids. A claim locks the table
/// before it reads the admission versions, so a claim that has not seen a committed pause is among
/// them. Locks identify them independently of connection names and roles, and for this cell alone.
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

/// Whether all of these transactions have ended.
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
