//! Quota shares: the steps of a transaction in which a server takes a share of a limit, and takes
//! back the unused part of other servers' shares.
//!
//! Any server can change a share at any time: a claim that relies on a share states the term that
//! it knows, under a lock that conflicts with such a change. So together the servers never exceed
//! the limit, whichever of them fails.

use uuid::Uuid;

use crate::{
    domain::quota::{HeldShare, QuotaShare},
    store::{
        Db, StoreError,
        count::{column, count},
        deadline::{DeadlineClient, DeadlineTransaction},
    },
};

/// A server that has not renewed its share for this long no longer demands it.
const FORGOTTEN_AFTER_SECONDS: f64 = 3.0;

/// The quota of a service under lock.
#[derive(Clone, Copy, Debug)]
pub struct LockedQuota {
    /// The admission version.
    pub version: i64,
    /// Probes that no server has.
    pub probes_left: u32,
    /// Tokens in the bucket, `age` seconds ago.
    pub tokens: f64,
    pub age: f64,
}

/// The shares of a service under lock.
#[derive(Clone, Debug, Default)]
pub struct LockedShares {
    pub ids: Vec<i32>,
    /// Of the shares at the same positions in `ids`.
    pub shares: Vec<HeldShare>,
    /// Position of the asking server's share.
    pub me: usize,
    /// Running attempts of the service, and those of them that use none of these shares.
    pub running: u32,
    pub unaccounted: u32,
}

/// A new count of a share.
#[derive(Clone, Copy, Debug)]
pub struct NewCount {
    pub share_id: i32,
    pub count: u32,
    /// Whether the term is raised, so that no claim in flight can rely on the share.
    pub raise_term: bool,
}

/// A transaction that changes the quota of a service. It writes nothing unless it commits.
pub struct QuotaTransaction<'a> {
    tx: DeadlineTransaction<'a>,
    service_id: i32,
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
    UPDATE quota_shares s SET count = u.count, term = term + u.raise_term::int
      FROM unnest($1::int4[], $2::int4[], $3::bool[]) AS u(share_id, count, raise_term) WHERE s.share_id = u.share_id";

impl<'a> QuotaTransaction<'a> {
    pub async fn begin(
        client: &'a mut DeadlineClient,
        service_id: i32,
    ) -> Result<Self, StoreError> {
        Ok(Self {
            tx: client.transaction().await?,
            service_id,
        })
    }

    /// Locks the service. `bucket` is the number of tokens in a bucket that was never used.
    pub async fn lock(&self, bucket: f64) -> Result<Option<LockedQuota>, StoreError> {
        let statement = self.tx.prepare_cached(SERVICE).await?;
        let row = self
            .tx
            .query_opt(&statement, &[&self.service_id, &bucket])
            .await?;
        Ok(row.map(|row| LockedQuota {
            version: row.get(0),
            probes_left: count(row.get(1)),
            tokens: row.get(2),
            age: row.get(3),
        }))
    }

    /// Registers the demand of a server, and locks all shares of the service.
    pub async fn shares(&self, server: Uuid, wanted: u32) -> Result<LockedShares, StoreError> {
        let mine = self.tx.prepare_cached(MINE).await?;
        self.tx
            .execute(&mine, &[&self.service_id, &server, &column(wanted)])
            .await?;
        let all = self.tx.prepare_cached(ALL).await?;
        let rows = self
            .tx
            .query(&all, &[&self.service_id, &FORGOTTEN_AFTER_SECONDS])
            .await?;
        let used = self.tx.prepare_cached(USED).await?;
        let used = self.tx.query(&used, &[&self.service_id]).await?;
        let mut locked = LockedShares::default();
        for row in &rows {
            if row.get::<_, Uuid>(1) == server {
                locked.me = locked.ids.len();
            }
            locked.ids.push(row.get(0));
            locked.shares.push(HeldShare {
                count: count(row.get(2)),
                wanted: count(row.get(3)),
                used: 0,
                alive: row.get(4),
            });
        }
        for row in &used {
            let (share_id, attempts): (i32, u32) = (row.get(0), count(row.get(1)));
            locked.running += attempts;
            match locked.ids.iter().position(|id| *id == share_id) {
                Some(i) => locked.shares[i].used = attempts,
                None => locked.unaccounted += attempts,
            }
        }
        Ok(locked)
    }

    /// Writes new counts, in the order of the shares' ids.
    pub async fn set_counts(&self, counts: &[NewCount]) -> Result<(), StoreError> {
        let ids: Vec<i32> = counts.iter().map(|new| new.share_id).collect();
        let values: Vec<i32> = counts.iter().map(|new| column(new.count)).collect();
        let raised: Vec<bool> = counts.iter().map(|new| new.raise_term).collect();
        let set = self.tx.prepare_cached(SET).await?;
        self.tx.execute(&set, &[&ids, &values, &raised]).await?;
        Ok(())
    }

    /// Writes the number of probes that no server has.
    pub async fn set_probes_left(&self, left: u32) -> Result<(), StoreError> {
        let sql = "UPDATE services SET probes_left = $2 WHERE service_id = $1";
        self.tx
            .execute(sql, &[&self.service_id, &column(left)])
            .await?;
        Ok(())
    }

    /// Writes the tokens that are left in the bucket.
    pub async fn set_tokens(&self, left: f64) -> Result<(), StoreError> {
        let sql = "UPDATE services SET tokens = $2, refilled_at = clock_timestamp() WHERE service_id = $1";
        self.tx.execute(sql, &[&self.service_id, &left]).await?;
        Ok(())
    }

    /// A share with its term, after its count was written.
    pub async fn share(&self, share_id: i32, count: u32) -> Result<QuotaShare, StoreError> {
        let statement = self
            .tx
            .prepare_cached("SELECT term FROM quota_shares WHERE share_id = $1")
            .await?;
        let row = self.tx.query_one(&statement, &[&share_id]).await?;
        Ok(QuotaShare {
            share_id,
            count: column(count),
            term: row.get(0),
        })
    }

    pub async fn commit(self) -> Result<(), StoreError> {
        self.tx.commit().await
    }
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
