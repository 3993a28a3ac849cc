//! The waiting steps of each lane.

use std::time::Duration;

use super::{Db, StoreError};

/// Bound on the lanes that are read.
pub const MAX_LANES: usize = 1_000;
/// Bound on the counted steps of a lane; a longer queue reports this number.
pub const MAX_COUNTED: i64 = 10_000;

/// For each of these lanes, in their order: the number of claimable steps, and the longest time
/// that one of them has waited. Both cover the first [`MAX_COUNTED`] in claim order.
pub async fn read(db: &Db, lanes: &[i32]) -> Result<Vec<(i64, Duration)>, StoreError> {
    let client = db.read().await?;
    let statement = client
        .prepare_cached(
            "SELECT w.steps, coalesce(extract(epoch FROM clock_timestamp() - w.oldest), 0)::float8
               FROM unnest($1::int4[]) WITH ORDINALITY AS u(lane_id, place)
              CROSS JOIN LATERAL (
                    SELECT count(*) AS steps, min(q.since) AS oldest
                      FROM (SELECT greatest(ready_at, next_attempt_at) AS since FROM queue
                             WHERE lane_id = u.lane_id AND due
                             ORDER BY priority DESC, task_id, step LIMIT $2) AS q) AS w
              ORDER BY u.place",
        )
        .await?;
    let rows = client.query(&statement, &[&lanes, &MAX_COUNTED]).await?;
    let seconds = |s: f64| Duration::try_from_secs_f64(s.max(0.0)).unwrap_or_default();
    Ok(rows
        .iter()
        .map(|row| (row.get(0), seconds(row.get(1))))
        .collect())
}
