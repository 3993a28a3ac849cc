//! Quota shares: a server takes a share of a limit, and other servers take back what it does not
//! use.
//!
//! Any server can change a share at any time: a claim that relies on a share states the term that
//! it knows, under a lock that conflicts with such a change. So together the servers never exceed
//! the limit, whichever of them fails.

use uuid::Uuid;

use super::{Db, StoreError, deadline::DeadlineTransaction, service::QuotaShare};
use crate::domain::circuit::{self, Holder};

/// A server that has not renewed its share for this long no longer demands it.
const FORGOTTEN_AFTER_SECONDS: f64 = 3.0;

/// The request of a server.
#[derive(Clone, Debug)]
pub struct Renewal {
    pub service_id: i32,
    /// The admission version that the server knows.
    pub version: i64,
    /// The concurrency limit of the whole cluster, if any.
    pub limit: Option<u32>,
    /// Whether the circuit is half-open, so that the share consists of probes, each for one start.
    pub probing: bool,
    /// How many concurrent steps the server could admit.
    pub wanted: u32,
    pub rate: Option<Rate>,
}

/// A rate limit, and the request against it.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    pub per_second: f64,
    /// Capacity of the token bucket.
    pub bucket: f64,
    pub wanted: f64,
    /// Tokens that were taken and not used.
    pub returned: f64,
}

/// The answer to a renewal.
#[derive(Clone, Copy, Debug, Default)]
pub struct Renewed {
    pub share: Option<QuotaShare>,
    pub tokens: f64,
    /// Seconds until the next token, if fewer were granted than requested.
    pub next_token: Option<f64>,
}

struct Row {
    share_id: i32,
    server_id: Uuid,
    count: i32,
    wanted: i32,
    alive: bool,
}

/// Locks the service's row before its `quota_shares`, in the lock order of all writers.
const SERVICE: &str = "
    SELECT version, probes_left, coalesce(tokens, $2), coalesce(extract(epoch FROM clock_timestamp() - refilled_at), 0)::float8
      FROM services WHERE service_id = $1 FOR UPDATE";

const MINE: &str = "
    INSERT INTO quota_shares (service_id, server_id, count, wanted, seen_at) VALUES ($1, $2, 0, $3, clock_timestamp())
        ON CONFLICT (service_id, server_id) DO UPDATE SET wanted = $3, seen_at = clock_timestamp()";

const ALL: &str = "
    SELECT share_id, server_id, count, wanted, seen_at > clock_timestamp() - make_interval(secs => $2)
      FROM quota_shares WHERE service_id = $1 ORDER BY share_id FOR UPDATE";

/// Running attempts per share.
const USED: &str = "
    SELECT coalesce(q.share_id, 0), count(*)::int FROM queue q JOIN lanes l ON l.lane_id = q.lane_id
     WHERE q.worker_id IS NOT NULL AND l.service_id = $1 GROUP BY 1";

const SET: &str = "
    UPDATE quota_shares s SET count = u.count, term = term + u.bump::int
      FROM unnest($1::int4[], $2::int4[], $3::bool[]) AS u(share_id, count, bump) WHERE s.share_id = u.share_id";

/// Takes a share of a service's limits; `None` if its admission version has changed or the service
/// is gone.
pub async fn renew(db: &Db, server: Uuid, ask: &Renewal) -> Result<Option<Renewed>, StoreError> {
    let mut client = db.read().await?;
    let tx = client.transaction().await?;
    let bucket = ask.rate.map_or(0.0, |rate| rate.bucket);
    let statement = tx.prepare_cached(SERVICE).await?;
    let service = tx
        .query_opt(&statement, &[&ask.service_id, &bucket])
        .await?;
    let Some(service) = service.filter(|row| row.get::<_, i64>(0) == ask.version) else {
        return Ok(None);
    };
    let mut renewed = Renewed::default();
    if ask.probing || ask.limit.is_some() {
        renewed.share = Some(take(&tx, server, ask, service.get(1)).await?);
    }
    if let Some(rate) = ask.rate {
        let (saved, age): (f64, f64) = (service.get(2), service.get(3));
        let saved = (saved + rate.returned + age * rate.per_second).min(rate.bucket);
        renewed.tokens = rate.wanted.min(saved.floor()).max(0.0);
        let left = saved - renewed.tokens;
        renewed.next_token =
            (renewed.tokens < rate.wanted).then(|| (1.0 - left).max(0.0) / rate.per_second);
        let store = "UPDATE services SET tokens = $2, refilled_at = clock_timestamp() WHERE service_id = $1";
        tx.execute(store, &[&ask.service_id, &left]).await?;
    }
    tx.commit().await?;
    Ok(Some(renewed))
}

#[expect(clippy::too_many_lines, reason = "one transaction in its order")]
async fn take(
    tx: &DeadlineTransaction<'_>,
    server: Uuid,
    ask: &Renewal,
    probes_left: i32,
) -> Result<QuotaShare, StoreError> {
    let wanted = i32::try_from(ask.wanted).unwrap_or(i32::MAX);
    let mine = tx.prepare_cached(MINE).await?;
    tx.execute(&mine, &[&ask.service_id, &server, &wanted])
        .await?;
    let all = tx.prepare_cached(ALL).await?;
    let rows: Vec<Row> = tx
        .query(&all, &[&ask.service_id, &FORGOTTEN_AFTER_SECONDS])
        .await?
        .iter()
        .map(|r| Row {
            share_id: r.get(0),
            server_id: r.get(1),
            count: r.get(2),
            wanted: r.get(3),
            alive: r.get(4),
        })
        .collect();
    let me = rows
        .iter()
        .position(|row| row.server_id == server)
        .unwrap_or_default();
    let used = tx.prepare_cached(USED).await?;
    let used: Vec<(i32, u32)> = tx
        .query(&used, &[&ask.service_id])
        .await?
        .iter()
        .map(|r| {
            (
                r.get(0),
                u32::try_from(r.get::<_, i32>(1)).unwrap_or_default(),
            )
        })
        .collect();
    let counts = if ask.probing {
        // Probes are added to the attempts that still run, and the limit holds for their sum.
        let running: u32 = used.iter().map(|(_, n)| n).sum();
        let room = ask.limit.map_or(i32::MAX, |limit| {
            i32::try_from(limit.saturating_sub(running)).unwrap_or(i32::MAX)
        });
        take_probes(tx, ask, &rows, me, (probes_left, room)).await?
    } else {
        let used_by = |id: i32| {
            used.iter()
                .find(|(share, _)| *share == id)
                .map_or(0, |(_, n)| *n)
        };
        let holders: Vec<Holder> = rows
            .iter()
            .map(|row| holder(row, used_by(row.share_id)))
            .collect();
        let known = |id: i32| rows.iter().any(|row| row.share_id == id);
        let unaccounted = used
            .iter()
            .filter(|(id, _)| !known(*id))
            .map(|(_, n)| n)
            .sum();
        let limit = ask.limit.unwrap_or(u32::MAX);
        let counts = circuit::distribute(limit, me, &holders, unaccounted);
        counts
            .into_iter()
            .map(|n| i32::try_from(n).unwrap_or(i32::MAX))
            .collect()
    };
    let changed: Vec<usize> = (0..rows.len())
        .filter(|i| counts[*i] != rows[*i].count)
        .collect();
    if !changed.is_empty() {
        let ids: Vec<i32> = changed.iter().map(|i| rows[*i].share_id).collect();
        let new: Vec<i32> = changed.iter().map(|i| counts[*i]).collect();
        // A larger share of one's own invalidates no claim. Any other change raises the term, so
        // that a claim in flight cannot rely on the old share.
        let bump: Vec<bool> = changed
            .iter()
            .map(|i| *i != me || counts[*i] < rows[*i].count)
            .collect();
        let set = tx.prepare_cached(SET).await?;
        tx.execute(&set, &[&ids, &new, &bump]).await?;
    }
    let term = tx
        .prepare_cached("SELECT term FROM quota_shares WHERE share_id = $1")
        .await?;
    let term = tx.query_one(&term, &[&rows[me].share_id]).await?.get(0);
    Ok(QuotaShare {
        share_id: rows[me].share_id,
        count: counts[me],
        term,
    })
}

fn holder(row: &Row, used: u32) -> Holder {
    let unsigned = |n: i32| u32::try_from(n).unwrap_or_default();
    Holder {
        count: unsigned(row.count),
        wanted: if row.alive { unsigned(row.wanted) } else { 0 },
        used,
    }
}

/// Probes granted to a server that is gone, and not used by it, are granted again.
async fn take_probes(
    tx: &DeadlineTransaction<'_>,
    ask: &Renewal,
    rows: &[Row],
    me: usize,
    (mut left, room): (i32, i32),
) -> Result<Vec<i32>, StoreError> {
    let mut counts: Vec<i32> = rows.iter().map(|row| row.count).collect();
    for (i, row) in rows
        .iter()
        .enumerate()
        .filter(|(i, row)| *i != me && !row.alive)
    {
        left += row.count;
        counts[i] = 0;
    }
    let wanted = i32::try_from(ask.wanted).unwrap_or(i32::MAX);
    let room = room.saturating_sub(counts.iter().sum()).max(0);
    let taken = (wanted - counts[me]).clamp(0, left.min(room));
    counts[me] += taken;
    let store = "UPDATE services SET probes_left = $2 WHERE service_id = $1";
    tx.execute(store, &[&ask.service_id, &(left - taken)])
        .await?;
    Ok(counts)
}

/// Gives up a server's shares. The attempts that run on them then belong to no server's share and
/// still count against the limit.
pub async fn leave(db: &Db, server: Uuid) -> Result<(), StoreError> {
    let client = db.read().await?;
    client
        .execute(
            "UPDATE quota_shares SET count = 0, wanted = 0, term = term + 1 WHERE server_id = $1",
            &[&server],
        )
        .await?;
    Ok(())
}

/// Removes the shares of servers that are gone, where no attempt runs on them any more.
pub async fn prune(db: &Db) -> Result<(), StoreError> {
    let client = db.read().await?;
    let sql = "DELETE FROM quota_shares s
                WHERE seen_at < now() - interval '1 hour' AND count = 0
                  AND NOT EXISTS (SELECT FROM queue q WHERE q.worker_id IS NOT NULL AND q.share_id = s.share_id)";
    client.execute(sql, &[]).await?;
    Ok(())
}
