//! The servers of a cell, so that each knows whether there are others to notify.

use std::time::SystemTime;

use uuid::Uuid;

use super::{Db, StoreError};

/// A server without a heartbeat for this long counts as gone, seconds.
const GONE_AFTER_SECONDS: f64 = 15.0;

/// The data that a server publishes.
#[derive(Clone, Copy, Debug)]
pub struct Server<'a> {
    pub id: Uuid,
    pub address: &'a str,
    pub build_id: &'a str,
    /// Number of its subscribers to events.
    pub subscribers: i32,
}

/// Records that this server is alive, and deletes those that are gone. Returns the number of other
/// servers, and whether any of them has subscribers to events.
pub async fn beat(db: &Db, me: Server<'_>) -> Result<(i64, bool), StoreError> {
    let client = db.read().await?;
    let statement = client
        .prepare_cached(
            "WITH gone AS (
                 DELETE FROM servers WHERE server_id <> $1 AND seen_at < clock_timestamp() - make_interval(secs => $4)),
             me AS (
                 INSERT INTO servers (server_id, address, build_id, started_at, seen_at, subscribers)
                 VALUES ($1, $2, $3, clock_timestamp(), clock_timestamp(), $5)
                     ON CONFLICT (server_id) DO UPDATE SET seen_at = clock_timestamp(), subscribers = $5)
             SELECT count(*), coalesce(bool_or(subscribers > 0), false) FROM servers
              WHERE server_id <> $1 AND seen_at >= clock_timestamp() - make_interval(secs => $4)",
        )
        .await?;
    let Server {
        id,
        address,
        build_id,
        subscribers,
    } = me;
    let row = client
        .query_one(
            &statement,
            &[&id, &address, &build_id, &GONE_AFTER_SECONDS, &subscribers],
        )
        .await?;
    Ok((row.get(0), row.get(1)))
}

/// Notifies the other servers.
pub async fn wake(db: &Db, payload: &str) -> Result<(), StoreError> {
    let client = db.read().await?;
    client
        .execute("SELECT pg_notify($1, $2)", &[&db.channel(), &payload])
        .await?;
    Ok(())
}

/// Removes this server from the list.
pub async fn leave(db: &Db, id: Uuid) -> Result<(), StoreError> {
    let client = db.read().await?;
    client
        .execute("DELETE FROM servers WHERE server_id = $1", &[&id])
        .await?;
    Ok(())
}

/// Whether the database answers and takes writes, and its time. The check covers a session that
/// became read-only after it was opened: the setting can change under it.
pub async fn ping(db: &Db) -> Result<SystemTime, StoreError> {
    let client = db.read().await?;
    let sql = "SELECT clock_timestamp(), current_setting('transaction_read_only') = 'on'";
    let row = client
        .query_one(&client.prepare_cached(sql).await?, &[])
        .await?;
    match row.get(1) {
        true => Err(StoreError::ReadOnly("the database is read-only".into())),
        false => Ok(row.get(0)),
    }
}
