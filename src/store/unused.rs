//! Removes lanes without a template step, and services without a lane whose circuits are closed and
//! at rest and which have no settings. A registration creates whatever it does not find, so both
//! run under the registration lock.

use tokio::time::Instant;
use tokio_postgres::{Client, Row};

use super::{Db, StoreError, template::TURN};

/// Lanes, or services, that one transaction examines; a registration waits for one such transaction
/// at most.
const ROWS: i64 = 500;

/// The payload that notifies every server of removed lanes or services. It has the nil id in place
/// of a server's, since the pruning server must receive it too.
const GONE: &str = "00000000-0000-0000-0000-000000000000:g";

/// $1 the lane before the page, $2 its size. Returns the last lane of the page, and the lanes of
/// the page without a template step.
const FIND_LANES: &str = "
    WITH page AS MATERIALIZED (SELECT lane_id FROM lanes WHERE lane_id > $1 ORDER BY lane_id LIMIT $2),
    idle AS (SELECT lane_id FROM page p
              WHERE NOT EXISTS (SELECT FROM template_steps d WHERE d.lane_id = p.lane_id))
    SELECT (SELECT max(lane_id) FROM page), (SELECT coalesce(array_agg(lane_id), '{}') FROM idle)";

/// $1 lanes. Returns those with steps in play: none, unless their template was removed by hand.
const IN_PLAY: &str = "
    SELECT coalesce(array_agg(DISTINCT lane_id), '{}') FROM queue WHERE lane_id = ANY($1::int4[])";

/// $1 lanes, $2 those of them that are in play.
const FORGET_LANES: &str = "
    DELETE FROM lanes l
     WHERE l.lane_id = ANY($1::int4[]) AND l.lane_id <> ALL($2::int4[])
       AND NOT EXISTS (SELECT FROM template_steps d WHERE d.lane_id = l.lane_id)";

/// The conditions under which a service `s` may be removed, apart from its lanes; $1 the time
/// before which a change is old. Its history is kept for a day at least, and the service with it.
const AT_REST: &str = "
           s.state = 'closed' AND s.until IS NULL AND s.openings = 0 AND s.forced IS NULL
       AND greatest(s.since, s.throttled_until, s.refilled_at) < $1::text::timestamptz
       AND NOT EXISTS (SELECT FROM quota_shares q WHERE q.service_id = s.service_id)
       AND NOT EXISTS (SELECT FROM service_policies o WHERE o.namespace = s.namespace AND o.service = s.service)
       AND NOT EXISTS (SELECT FROM circuit_changes h
                        WHERE h.service_id = s.service_id AND h.at >= least($1::text::timestamptz, now() - interval '1 day'))";

const NO_LANES: &str = "NOT EXISTS (SELECT FROM lanes l WHERE l.service_id = s.service_id)";

/// Counts the services that [`forget`] would remove, $1 as above.
pub(super) fn count_services() -> String {
    format!(
        "WITH in_use AS MATERIALIZED (
             SELECT DISTINCT service_id FROM lanes
              WHERE lane_id IN (SELECT lane_id FROM template_steps) OR lane_id IN (SELECT lane_id FROM queue))
         SELECT count(*) FROM services s WHERE {AT_REST} AND s.service_id NOT IN (SELECT service_id FROM in_use)"
    )
}

/// Removes unused lanes and unused services without a change since `cutoff`, and notifies the
/// servers. It rests after each page for as long as the page took. Returns the number of removed
/// services.
pub(super) async fn forget(db: &Db, client: &mut Client, cutoff: &str) -> Result<u64, StoreError> {
    // Lanes first: a service that loses its last lane can be removed in the same round.
    let lanes = forget_lanes(client).await?;
    notify(db, client, lanes).await?;
    let services = forget_services(client, cutoff).await?;
    notify(db, client, services).await?;
    Ok(services)
}

async fn notify(db: &Db, client: &Client, gone: u64) -> Result<(), StoreError> {
    if gone > 0 {
        let wake = "SELECT pg_notify($1, $2)";
        client.execute(wake, &[&db.channel(), &GONE]).await?;
    }
    Ok(())
}

/// A page of a walk along ids: its last id, and those ids that seem unused.
fn page(row: &Row) -> Option<(i32, Vec<i32>)> {
    Some((row.get::<_, Option<i32>>(0)?, row.get(1)))
}

async fn forget_lanes(client: &mut Client) -> Result<u64, StoreError> {
    let (mut last, mut gone) = (0, 0);
    loop {
        let began = Instant::now();
        let row = client.query_one(FIND_LANES, &[&last, &ROWS]).await?;
        let Some((end, idle)) = page(&row) else {
            return Ok(gone);
        };
        last = end;
        if !idle.is_empty() {
            // Before the lock is taken, as this walks the queue: no step can enter a lane without a
            // template step.
            let in_play: Vec<i32> = client.query_one(IN_PLAY, &[&idle]).await?.get(0);
            let tx = client.transaction().await?;
            tx.execute(TURN, &[]).await?;
            gone += tx.execute(FORGET_LANES, &[&idle, &in_play]).await?;
            tx.commit().await?;
        }
        tokio::time::sleep(began.elapsed()).await;
    }
}

async fn forget_services(client: &mut Client, cutoff: &str) -> Result<u64, StoreError> {
    // $2 the service before the page, $3 its size.
    let find = format!(
        "WITH page AS MATERIALIZED (SELECT * FROM services WHERE service_id > $2 ORDER BY service_id LIMIT $3),
         idle AS (SELECT service_id FROM page s WHERE {AT_REST} AND {NO_LANES})
         SELECT (SELECT max(service_id) FROM page), (SELECT coalesce(array_agg(service_id), '{{}}') FROM idle)"
    );
    // Every change of a service, and every renewal of a quota share, locks its row first.
    let lock =
        "SELECT FROM services WHERE service_id = ANY($1::int4[]) ORDER BY service_id FOR UPDATE";
    let forget = format!(
        "WITH gone AS (
             DELETE FROM services s WHERE s.service_id = ANY($2::int4[]) AND {AT_REST} AND {NO_LANES} RETURNING service_id),
         counted AS (DELETE FROM service_health h USING gone WHERE h.service_id = gone.service_id)
         SELECT count(*) FROM gone"
    );
    let (mut last, mut gone) = (0, 0);
    loop {
        let began = Instant::now();
        let row = client.query_one(&find, &[&cutoff, &last, &ROWS]).await?;
        let Some((end, idle)) = page(&row) else {
            return Ok(gone);
        };
        last = end;
        if !idle.is_empty() {
            let tx = client.transaction().await?;
            tx.execute(TURN, &[]).await?;
            tx.execute(lock, &[&idle]).await?;
            let count: i64 = tx.query_one(&forget, &[&cutoff, &idle]).await?.get(0);
            tx.commit().await?;
            gone += count.cast_unsigned();
        }
        tokio::time::sleep(began.elapsed()).await;
    }
}
