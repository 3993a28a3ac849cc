//! Services for admission: those that have changed since an earlier read, or all.

use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    ServiceRow,
    policy::{POLICIES, Policies},
    state,
};
use crate::{
    domain::quota::QuotaShare,
    store::{Db, StoreError, count::count},
};

/// The result of a read.
pub struct Reading {
    pub rows: Vec<ServiceRow>,
    /// A lower bound on the numbers of the transactions that were running at the read (its `xmin`):
    /// the next read starts from this number.
    pub horizon: u64,
    /// The settings at that time or a moment later.
    pub policies: Policies,
}

/// The horizon from which a read returns all services.
pub const ALL: u64 = 0;

/// $1 the server, $2 the horizon of the read before, $3 services that are read in any case. Where
/// nothing has changed, a row without a service carries the horizon.
const CHANGED: &str = "
    SELECT s.service_id, s.namespace, s.service, s.version, s.state::text,
           extract(epoch FROM c.now - s.since)::float8, extract(epoch FROM s.until - c.now)::float8,
           s.forced::text, extract(epoch FROM s.forced_until - c.now)::float8,
           extract(epoch FROM s.throttled_until - c.now)::float8, share.share_id, share.count, share.term, s.openings,
           pg_snapshot_xmin(pg_current_snapshot())::text
      FROM (SELECT clock_timestamp() AS now) c
      LEFT JOIN (SELECT service_id FROM services WHERE changed_in >= $2::text::xid8
                  UNION SELECT unnest($3::int4[])) i ON true
      LEFT JOIN LATERAL (SELECT * FROM services WHERE service_id = i.service_id LIMIT 1) s ON true
      LEFT JOIN LATERAL (SELECT share_id, count, term FROM quota_shares
                          WHERE service_id = s.service_id AND server_id = $1 LIMIT 1) share ON true";

/// The services that have changed since a horizon, and those of `also`, from the view of `server`.
pub async fn changed_since(
    db: &Db,
    server: Uuid,
    horizon: u64,
    also: &[i32],
) -> Result<Reading, StoreError> {
    let client = db.read().await?;
    let statement = client.prepare_cached(CHANGED).await?;
    let since = horizon.to_string();
    let rows = client.query(&statement, &[&server, &since, &also]).await?;
    // Settings are read after the services: a change of settings gives its services another
    // admission version, so a server with the current version has read the settings that belong to
    // it.
    let all = client.prepare_cached(POLICIES).await?;
    let policies = Policies::of(&client.query(&all, &[]).await?);
    let horizon = match rows.first() {
        Some(row) => number(row.get(14))?,
        None => ALL,
    };
    let found = rows
        .iter()
        .filter(|row| row.get::<_, Option<i32>>(0).is_some());
    let rows = found
        .map(|row| service_row(row, &policies))
        .collect::<Result<_, _>>()?;
    Ok(Reading {
        rows,
        horizon,
        policies,
    })
}

fn number(text: &str) -> Result<u64, StoreError> {
    text.parse()
        .map_err(|_| StoreError::Corrupt(format!("transaction number `{text}`")))
}

fn service_row(row: &Row, policies: &Policies) -> Result<ServiceRow, StoreError> {
    let (namespace, service): (String, String) = (row.get(1), row.get(2));
    Ok(ServiceRow {
        service_id: row.get(0),
        version: row.get(3),
        state: state(row.get(4))?,
        openings: count(row.get(13)),
        age: row.get(5),
        until: row.get(6),
        forced: row.get::<_, Option<&str>>(7).map(state).transpose()?,
        forced_until: row.get(8),
        throttled_until: row.get(9),
        share: row.get::<_, Option<i32>>(10).map(|share_id| QuotaShare {
            share_id,
            count: row.get(11),
            term: row.get(12),
        }),
        policy: policies.of_service(&namespace, &service),
        namespace,
        service,
    })
}
