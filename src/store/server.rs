//! The servers of a cell, so that each knows whether there is anybody to wake.

use std::time::SystemTime;

use uuid::Uuid;

use super::{Db, StoreError};

/// A server that has not said anything for this long is taken for gone, seconds.
const GONE_AFTER_SECONDS: f64 = 15.0;

/// What a server says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Server<'a> {
    pub id: Uuid,
    pub address: &'a str,
    pub build_id: &'a str,
    /// How many listen to events there.
    pub subscribers: i32,
}

/// Says that this server lives, and forgets those that do not. Returns how many others there are, and whether anybody
/// listens to events at one of them.
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

/// Wakes the other servers.
pub async fn wake(db: &Db, payload: &str) -> Result<(), StoreError> {
    let client = db.read().await?;
    client
        .execute("SELECT pg_notify($1, $2)", &[&db.channel(), &payload])
        .await?;
    Ok(())
}

/// Says that this server is gone.
pub async fn leave(db: &Db, id: Uuid) -> Result<(), StoreError> {
    let client = db.read().await?;
    client
        .execute("DELETE FROM servers WHERE server_id = $1", &[&id])
        .await?;
    Ok(())
}

/// Whether the database answers and takes writes, and what time it has. A session that was let in may have become one that only
/// reads: the setting can be changed under it.
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
