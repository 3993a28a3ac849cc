//! Reads the newest template and the newest change of one.

use std::time::SystemTime;

use tokio_postgres::Row;

use crate::store::template::Newest;

/// Also returns the time after the idempotency keys were taken. `FOR KEY SHARE` locks no row: it
/// locks the table, before this statement takes its snapshot and until the transaction ends,
/// against an order that retires a version (`retirement::NO_SUBMITS`).
pub(in crate::store) const NEWEST_TEMPLATE: &str = "
    SELECT coalesce(max(template_id), 0), clock_timestamp(),
           coalesce((SELECT max(change_id) FROM retirements), 0),
           EXISTS (SELECT FROM retirements WHERE false FOR KEY SHARE)
      FROM templates";

/// The row of `NEWEST_TEMPLATE`, with its time.
pub(in crate::store) fn newest(row: &Row) -> (Newest, SystemTime) {
    let newest = Newest {
        template: row.get(0),
        change: row.get(2),
    };
    (newest, row.get(1))
}
