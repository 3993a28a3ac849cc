//! Looks for what nothing would ever wake.

use super::{Db, StoreError};

/// How many rows the view `liveness_violations` has. It reads all tasks, so it is not for every second.
pub async fn violations(db: &Db) -> Result<i64, StoreError> {
    let client = db.patient().await?;
    Ok(client.query_one("SELECT count(*) FROM liveness_violations", &[]).await?.get(0))
}
