//! Circuits as operators see them: their states, counted calls, and latest changes.

use std::time::SystemTime;

use tokio_postgres::Row;

use super::{Scope, state};
use crate::{
    domain::circuit::CircuitState,
    store::{Db, StoreError},
};

/// Bound on the counted waiting steps.
pub const MAX_COUNTED: i64 = 10_000;
/// Bound on the changes of a history.
const MAX_CHANGES: i64 = 100;

/// A service and its circuit.
#[derive(Clone, Debug)]
pub struct CircuitRow {
    pub service_id: i32,
    pub namespace: String,
    pub service: String,
    pub state: CircuitState,
    pub since: SystemTime,
    pub until: Option<SystemTime>,
    pub forced: Option<CircuitState>,
    pub forced_by: Option<String>,
    pub forced_reason: Option<String>,
    pub forced_until: Option<SystemTime>,
    pub throttled_until: Option<SystemTime>,
    pub calls: i32,
    pub failures: i32,
    pub running: i32,
    pub waiting: i32,
    pub times_opened: i32,
    pub seconds_open: f64,
}

/// One change of a circuit.
#[derive(Clone, Debug)]
pub struct ChangeRow {
    pub at: SystemTime,
    pub kind: String,
    pub until: Option<SystemTime>,
    pub calls: Option<i32>,
    pub failures: Option<i32>,
    pub by: Option<String>,
    pub detail: Option<String>,
}

/// The change after each opening determines how long the circuit was open; one that opened before
/// the 24 hours may extend into them.
const SELECT: &str = "
    SELECT s.service_id, s.namespace, s.service, s.state::text, s.since, s.until, s.forced::text, s.forced_by,
           s.forced_reason, s.forced_until, CASE WHEN s.throttled_until > c.now THEN s.throttled_until END,
           h.calls, h.failures, r.n, w.n, o.times, o.seconds
      FROM (SELECT clock_timestamp() AS now) c
     CROSS JOIN services s
     CROSS JOIN LATERAL (
           SELECT coalesce(sum(calls), 0)::int AS calls, coalesce(sum(failures), 0)::int AS failures
             FROM service_health WHERE service_id = s.service_id) h
     CROSS JOIN LATERAL (
           SELECT count(*)::int AS n FROM queue q JOIN lanes l ON l.lane_id = q.lane_id
            WHERE q.worker_id IS NOT NULL AND l.service_id = s.service_id) r
     CROSS JOIN LATERAL (
           SELECT count(*)::int AS n FROM (
               SELECT FROM lanes l CROSS JOIN LATERAL (
                      SELECT FROM queue WHERE lane_id = l.lane_id AND due LIMIT $1) q
                WHERE l.service_id = s.service_id LIMIT $1) q) w
     CROSS JOIN LATERAL (
           SELECT count(*) FILTER (WHERE at >= c.now - interval '24 hours')::int AS times,
                  coalesce(sum(extract(epoch FROM next - greatest(at, c.now - interval '24 hours')))
                           FILTER (WHERE next > c.now - interval '24 hours'), 0)::float8 AS seconds
             FROM (SELECT type, at, lead(at, 1, c.now) OVER (ORDER BY at, change_id) AS next
                     FROM circuit_changes
                    WHERE service_id = s.service_id AND at > c.now - interval '48 hours'
                      AND type IN ('circuit.opened', 'circuit.half_opened', 'circuit.closed', 'circuit.reset')) p
            WHERE type = 'circuit.opened') o";

/// The services after `after`, by namespace and name; an empty namespace selects all of them.
pub async fn list(
    db: &Db,
    namespace: &str,
    after: Option<&Scope>,
    limit: i64,
) -> Result<Vec<CircuitRow>, StoreError> {
    let client = db.read().await?;
    let sql = format!(
        "{SELECT} WHERE ($2 = '' OR s.namespace = $2) AND (s.namespace, s.service) > ($3, $4)
          ORDER BY s.namespace, s.service LIMIT $5"
    );
    let statement = client.prepare_cached(&sql).await?;
    let (ns, service) = after.map_or(("", ""), |scope| (&scope.namespace, &scope.service));
    client
        .query(
            &statement,
            &[&MAX_COUNTED, &namespace, &ns, &service, &limit],
        )
        .await?
        .iter()
        .map(row)
        .collect()
}

/// One service.
pub async fn get(db: &Db, scope: &Scope) -> Result<Option<CircuitRow>, StoreError> {
    let client = db.read().await?;
    let statement = client
        .prepare_cached(&format!(
            "{SELECT} WHERE s.namespace = $2 AND s.service = $3"
        ))
        .await?;
    let found = client
        .query_opt(
            &statement,
            &[&MAX_COUNTED, &scope.namespace, &scope.service],
        )
        .await?;
    found.as_ref().map(row).transpose()
}

/// The latest changes of a service, newest first.
pub async fn changes(db: &Db, service_id: i32) -> Result<Vec<ChangeRow>, StoreError> {
    let client = db.read().await?;
    let sql = "SELECT at, type::text, until, calls, failures, actor, detail FROM circuit_changes
                WHERE service_id = $1 ORDER BY at DESC, change_id DESC LIMIT $2";
    let statement = client.prepare_cached(sql).await?;
    let change = |r: &Row| ChangeRow {
        at: r.get(0),
        kind: r.get(1),
        until: r.get(2),
        calls: r.get(3),
        failures: r.get(4),
        by: r.get(5),
        detail: r.get(6),
    };
    Ok(client
        .query(&statement, &[&service_id, &MAX_CHANGES])
        .await?
        .iter()
        .map(change)
        .collect())
}

fn row(r: &Row) -> Result<CircuitRow, StoreError> {
    Ok(CircuitRow {
        service_id: r.get(0),
        namespace: r.get(1),
        service: r.get(2),
        state: state(r.get(3))?,
        since: r.get(4),
        until: r.get(5),
        forced: r.get::<_, Option<&str>>(6).map(state).transpose()?,
        forced_by: r.get(7),
        forced_reason: r.get(8),
        forced_until: r.get(9),
        throttled_until: r.get(10),
        calls: r.get(11),
        failures: r.get(12),
        running: r.get(13),
        waiting: r.get(14),
        times_opened: r.get(15),
        seconds_open: r.get(16),
    })
}
