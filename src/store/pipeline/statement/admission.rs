//! The admission that claims rely on: versions of services and quota shares.

use crate::store::{error::stale_admission, pipeline::encode::columns};

/// The admission version and the quota share on which the claims of a transaction rely for a
/// service; if either has changed, nothing is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionCheck {
    pub service_id: i32,
    pub version: i64,
    pub share: Option<UsedShare>,
}

/// A quota share that claims use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UsedShare {
    pub share_id: i32,
    pub term: i64,
    /// Number of probes that the claims consume; 0 for a concurrency limit, whose share stays with
    /// the server.
    pub spent: i32,
}

/// Fails if the admission version of a service ($services, $versions) is not the known one, or if a
/// throttle has not ended by the database's clock.
macro_rules! check_admission {
    ($services:literal, $versions:literal, $now:literal) => {
        concat!(
            "SELECT expect_rows('",
            stale_admission!("version of a service"),
            "', count(*), cardinality(",
            $services,
            "::int4[]))
               FROM unnest(",
            $services,
            "::int4[], ",
            $versions,
            "::int8[]) AS a(service_id, version)
              CROSS JOIN LATERAL (
                    SELECT FROM services
                     WHERE service_id = a.service_id AND version = a.version
                       AND coalesce(throttled_until <= ",
            $now,
            ", true) LIMIT 1) AS s"
        )
    };
}
pub(super) use check_admission;

/// Locks quota shares in use: a transaction that takes a share away waits for this one, or commits
/// first, and then this one fails.
pub(in crate::store) const LOCK_SHARES: &str = concat!(
    "
    SELECT expect_rows('",
    stale_admission!("term of a quota share"),
    "', count(*), cardinality($1::int4[]))
      FROM unnest($1::int4[], $2::int8[]) AS u(share_id, term)
     CROSS JOIN LATERAL (
           SELECT FROM quota_shares WHERE share_id = u.share_id AND term = u.term LIMIT 1 FOR KEY SHARE) AS s"
);

columns!(LockedShares from share: UsedShare {
    share_id: i32 = share.share_id,
    term: i64 = share.term,
});

/// Consumes probes, one per start.
pub(in crate::store) const SPEND_PROBES: &str = concat!(
    "
    WITH spent AS (
        UPDATE quota_shares s SET count = s.count - u.spent
          FROM (SELECT u.spent, s.tid
                  FROM unnest($1::int4[], $2::int8[], $3::int4[]) AS u(share_id, term, spent)
                 CROSS JOIN LATERAL (
                       SELECT ctid AS tid FROM quota_shares
                        WHERE share_id = u.share_id AND term = u.term AND count >= u.spent LIMIT 1 FOR UPDATE) AS s
                 LIMIT cardinality($1)) AS u
         WHERE s.ctid = u.tid
        RETURNING 1)
    SELECT expect_rows('",
    stale_admission!("probes of a quota share"),
    "', count(*), cardinality($1::int4[])) FROM spent"
);

columns!(SpentProbes from share: UsedShare {
    share_id: i32 = share.share_id,
    term: i64 = share.term,
    spent: i32 = share.spent,
});
