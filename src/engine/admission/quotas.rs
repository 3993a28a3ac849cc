//! The transaction that renews a server's quota: it locks the service and all shares of its limit,
//! decides by `domain::quota`, and writes.

use uuid::Uuid;

use crate::{
    domain::quota::{QuotaShare, Renewal, Renewed, divide_limit, divide_probes},
    store::{
        Db, StoreError,
        service::quota::{LockedShares, NewCount, QuotaTransaction},
    },
};

/// Takes a share of a service's limits; `None` if its admission version has changed or the service
/// is gone.
pub async fn renew(db: &Db, server: Uuid, ask: &Renewal) -> Result<Option<Renewed>, StoreError> {
    let mut client = db.read().await?;
    let tx = QuotaTransaction::begin(&mut client, ask.service_id).await?;
    let quota = tx.lock(ask.rate.map_or(0.0, |rate| rate.bucket)).await?;
    let Some(quota) = quota.filter(|quota| quota.version == ask.version) else {
        return Ok(None);
    };
    let mut renewed = Renewed::default();
    if ask.probing || ask.limit.is_some() {
        renewed.share = Some(take(&tx, server, ask, quota.probes_left).await?);
    }
    if let Some(rate) = ask.rate {
        let refill = rate.refill(quota.tokens, quota.age);
        (renewed.tokens, renewed.next_token) = (refill.granted, refill.next_token);
        tx.set_tokens(refill.left).await?;
    }
    tx.commit().await?;
    Ok(Some(renewed))
}

/// Takes a share of the limit, and takes back the unused part of other shares.
async fn take(
    tx: &QuotaTransaction<'_>,
    server: Uuid,
    ask: &Renewal,
    probes_left: u32,
) -> Result<QuotaShare, StoreError> {
    let locked = tx.shares(server, ask.wanted).await?;
    let (me, shares) = (locked.me, &locked.shares);
    let counts = if ask.probing {
        let (counts, left) = divide_probes(ask, me, shares, probes_left, locked.running);
        tx.set_probes_left(left).await?;
        counts
    } else {
        divide_limit(ask, me, shares, locked.unaccounted)
    };
    let changed = changed(&locked, &counts);
    if !changed.is_empty() {
        tx.set_counts(&changed).await?;
    }
    tx.share(locked.ids[me], counts[me]).await
}

/// The shares whose count changes.
fn changed(locked: &LockedShares, counts: &[u32]) -> Vec<NewCount> {
    let all = locked.ids.iter().zip(&locked.shares).zip(counts);
    all.enumerate()
        .filter(|(_, ((_, share), count))| share.count != **count)
        .map(|(i, ((share_id, share), count))| NewCount {
            share_id: *share_id,
            count: *count,
            // A larger share of one's own invalidates no claim. Any other change raises the term, so
            // that a claim in flight cannot rely on the old share.
            raise_term: i != locked.me || *count < share.count,
        })
        .collect()
}
