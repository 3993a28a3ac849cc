//! Keeps the queue's table small while it turns over.

use super::{Db, StoreError};

/// Dead rows that are worth a vacuum.
const MANY_DEAD_ROWS: i64 = 20_000;

/// Vacuums the queue if it is worth it; returns whether it was. Autovacuum comes once a minute at most, and by then every
/// look at the queue wades through the rows of a million steps that are over.
pub async fn queue(db: &Db) -> Result<bool, StoreError> {
    let client = db.patient().await?;
    let statement = client
        .prepare_cached("SELECT n_dead_tup FROM pg_stat_all_tables WHERE relid = 'queue'::regclass")
        .await?;
    let dead: i64 = client.query_one(&statement, &[]).await?.get(0);
    if dead < MANY_DEAD_ROWS {
        return Ok(false);
    }
    // Another server may be at it; and no lock that would make a claim wait.
    client
        .batch_execute("VACUUM (SKIP_LOCKED, TRUNCATE false) queue")
        .await?;
    Ok(true)
}
