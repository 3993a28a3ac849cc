//! Vacuums the table of the queue, which turns over too fast for autovacuum.

use super::{Db, StoreError};

/// Number of dead rows that justify a vacuum.
const MANY_DEAD_ROWS: i64 = 20_000;

/// Vacuums the queue if it has that many; returns whether it did. Autovacuum runs once a minute at
/// most, and until then every scan of the queue passes over the dead rows of a million ended steps.
pub async fn queue(db: &Db) -> Result<bool, StoreError> {
    let client = db.patient().await?;
    let statement = client
        .prepare_cached("SELECT n_dead_tup FROM pg_stat_all_tables WHERE relid = 'queue'::regclass")
        .await?;
    let dead: i64 = client.query_one(&statement, &[]).await?.get(0);
    if dead < MANY_DEAD_ROWS {
        return Ok(false);
    }
    // Another server may be vacuuming, and no lock may block a claim.
    client
        .batch_execute("VACUUM (SKIP_LOCKED, TRUNCATE false) queue")
        .await?;
    Ok(true)
}
