//! Services: admission, counted calls, and every change of a circuit with its history.
//!
//! Locks are taken on `services` first and on `quota_shares` after it, each in the order of their
//! ids, and after those of tasks.

use std::collections::HashMap;

use tokio_postgres::Row;

use super::{Db, StoreError, deadline::DeadlineTransaction};
use crate::domain::{
    circuit::{self, Calls, CircuitEvent, CircuitState, Counted},
    event::EventType,
    policy::{Policy, Settings},
};

/// Number of slices into which a circuit's window is divided; the counted window is up to one slice
/// shorter than configured.
pub const SLICES: f64 = 10.0;

/// A service for admission. Times are seconds from the read.
#[derive(Clone, Debug)]
pub struct ServiceRow {
    pub service_id: i32,
    pub namespace: String,
    pub service: String,
    pub version: i64,
    pub state: CircuitState,
    /// Number of openings without a recovery in between.
    pub openings: u32,
    /// Seconds in this state.
    pub age: f64,
    /// Seconds until the state ends by itself: an open circuit's cool-down, a closed one's ramp.
    pub until: Option<f64>,
    pub forced: Option<CircuitState>,
    pub forced_until: Option<f64>,
    pub throttled_until: Option<f64>,
    /// This server's quota share.
    pub share: Option<QuotaShare>,
    pub policy: Policy,
}

/// A server's quota share of a service's limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaShare {
    pub share_id: i32,
    pub count: i32,
    pub term: i64,
}

/// The outcomes of one service's attempts since the last report.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    pub service_id: i32,
    pub calls: Calls,
    /// Those of them that started while the circuit was half-open.
    pub probes: Calls,
}

/// The author of a change, and the reason.
#[derive(Clone, Debug, Default)]
pub struct Actor {
    pub by: String,
    pub reason: String,
}

/// The scope of settings: a service, a namespace (no service), or the whole cell (neither).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    pub namespace: String,
    pub service: String,
}

pub(super) fn state(name: &str) -> Result<CircuitState, StoreError> {
    CircuitState::from_name(name)
        .ok_or_else(|| StoreError::Corrupt(format!("circuit state `{name}`")))
}

pub(super) const POLICIES: &str = "SELECT namespace, service, policy FROM service_policies";

/// All settings of the cell; there are few.
#[derive(Default)]
pub struct Policies(HashMap<Scope, Settings>);

impl Policies {
    pub(super) fn of(rows: &[Row]) -> Self {
        let entry = |row: &Row| {
            let scope = Scope {
                namespace: row.get(0),
                service: row.get(1),
            };
            match Settings::from_json(row.get(2)) {
                Ok(settings) => Some((scope, settings)),
                Err(error) => {
                    // A newer build wrote them: the service is served without them rather than not
                    // at all.
                    tracing::error!(%error, ?scope, "settings of a service cannot be read by this version");
                    None
                }
            }
        };
        Self(rows.iter().filter_map(entry).collect())
    }

    /// The settings for more than one service: of namespaces and of the cell.
    pub fn wide(&self) -> HashMap<Scope, Settings> {
        let wide = self.0.iter().filter(|(scope, _)| scope.service.is_empty());
        wide.map(|(scope, settings)| (scope.clone(), settings.clone()))
            .collect()
    }

    /// The settings of exactly this scope.
    pub fn set_for(&self, namespace: &str, service: &str) -> Settings {
        let scope = Scope {
            namespace: namespace.to_owned(),
            service: service.to_owned(),
        };
        self.0.get(&scope).cloned().unwrap_or_default()
    }

    /// The policy in force for a service.
    pub fn of_service(&self, namespace: &str, service: &str) -> Policy {
        let scopes = [("", ""), (namespace, ""), (namespace, service)];
        scopes.iter().fold(Policy::default(), |policy, (ns, s)| {
            self.set_for(ns, s).over(policy)
        })
    }
}

/// The policy in force, from the settings of the cell, the namespace and the service.
pub(super) fn layered(settings: [Option<&str>; 3]) -> Policy {
    let known = settings
        .into_iter()
        .flatten()
        .filter_map(|json| Settings::from_json(json).ok());
    known.fold(Policy::default(), |policy, settings| settings.over(policy))
}

/// A service's row under lock.
struct Locked {
    service_id: i32,
    namespace: String,
    service: String,
    state: CircuitState,
    openings: i32,
    probes_passed: i32,
    policy: Policy,
}

const LOCK: &str = "
    SELECT service_id, namespace, service, state::text, openings, probes_passed
      FROM services WHERE service_id = ANY($1::int4[]) ORDER BY service_id FOR UPDATE";

async fn lock(tx: &DeadlineTransaction<'_>, ids: &[i32]) -> Result<Vec<Locked>, StoreError> {
    let statement = tx.prepare_cached(LOCK).await?;
    let rows = tx.query(&statement, &[&ids]).await?;
    let all = tx.prepare_cached(POLICIES).await?;
    let policies = Policies::of(&tx.query(&all, &[]).await?);
    rows.iter()
        .map(|row| {
            let (namespace, service): (String, String) = (row.get(1), row.get(2));
            Ok(Locked {
                service_id: row.get(0),
                state: state(row.get(3))?,
                openings: row.get(4),
                probes_passed: row.get(5),
                policy: policies.of_service(&namespace, &service),
                namespace,
                service,
            })
        })
        .collect()
}

/// Adds the reported calls to the windows, and changes the circuits whose thresholds they cross. If
/// any circuit changed, it sends `wake` to the other servers and returns true.
pub async fn report(db: &Db, reports: &[Report], wake: &str) -> Result<bool, StoreError> {
    let mut client = db.read().await?;
    let tx = client.transaction().await?;
    let ids: Vec<i32> = reports.iter().map(|r| r.service_id).collect();
    let mut changed = false;
    for service in lock(&tx, &ids).await? {
        let Some(report) = reports.iter().find(|r| r.service_id == service.service_id) else {
            continue;
        };
        let window = count(&tx, &service, report.calls).await?;
        let passed = u32::try_from(service.probes_passed).unwrap_or_default();
        let counted = Counted {
            window,
            passed,
            probes: report.probes,
        };
        match circuit::judge(service.state, &service.policy, counted) {
            Some(event) => {
                let calls = if event == CircuitEvent::ProbeFailed {
                    report.probes
                } else {
                    window
                };
                changed |= apply(&tx, &service, event, Some(calls), None).await?;
            }
            None if service.state == CircuitState::HalfOpen && report.probes.calls > 0 => {
                let passed =
                    "UPDATE services SET probes_passed = probes_passed + $2 WHERE service_id = $1";
                tx.execute(passed, &[&service.service_id, &signed(report.probes.calls)])
                    .await?;
            }
            None => {}
        }
    }
    if changed {
        tx.execute("SELECT pg_notify($1, $2)", &[&db.channel(), &wake])
            .await?;
    }
    tx.commit().await?;
    Ok(changed)
}

const COUNT: &str = "
    WITH k AS (SELECT floor(extract(epoch FROM clock_timestamp()) * $4::float8 / $5::float8)::bigint AS slice),
    old AS (DELETE FROM service_health h USING k WHERE h.service_id = $1 AND h.slice <= k.slice - $4::float8::bigint),
    new AS (
        INSERT INTO service_health AS h (service_id, slice, calls, failures) SELECT $1, k.slice, $2, $3 FROM k
            ON CONFLICT (service_id, slice) DO UPDATE SET calls = h.calls + $2, failures = h.failures + $3)
    SELECT $2 + coalesce(sum(h.calls), 0)::int, $3 + coalesce(sum(h.failures), 0)::int
      FROM k LEFT JOIN service_health h ON h.service_id = $1 AND h.slice > k.slice - $4::float8::bigint";

/// Adds calls to the window and returns its new totals.
async fn count(
    tx: &DeadlineTransaction<'_>,
    service: &Locked,
    calls: Calls,
) -> Result<Calls, StoreError> {
    let statement = tx.prepare_cached(COUNT).await?;
    let (n, failures, window) = (
        signed(calls.calls),
        signed(calls.failures),
        service.policy.window_seconds,
    );
    let row = tx
        .query_one(
            &statement,
            &[&service.service_id, &n, &failures, &SLICES, &window],
        )
        .await?;
    let of = |i: usize| u32::try_from(row.get::<_, i32>(i)).unwrap_or_default();
    Ok(Calls {
        calls: of(0),
        failures: of(1),
    })
}

fn signed(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

const CHANGE_STATE: &str = "
    WITH s AS (
        UPDATE services
           SET state = $2::text::circuit_state, since = c.now, until = c.now + make_interval(secs => $3),
               openings = $4, probes_left = $5, probes_passed = 0, version = version + 1
          FROM (SELECT clock_timestamp() AS now) c
         WHERE service_id = $1
        RETURNING since, until),
    p AS (UPDATE quota_shares SET count = 0, term = term + 1 WHERE service_id = $1 AND $6 <> 'circuit.closed'),
    forgotten AS (DELETE FROM service_health WHERE service_id = $1 AND $6 = 'circuit.closed'),
    h AS (
        INSERT INTO circuit_changes (service_id, at, type, until, calls, failures, actor, detail)
        SELECT $1, since, $6::text::event_type, until, $7, $8, $9, $10 FROM s)
    INSERT INTO events (at, type, service_id, detail, next_attempt_at)
    SELECT since, $6::text::event_type, $1, $10, until FROM s";

/// Changes a circuit, with its history and its event. `false` if its state does not allow the
/// change.
async fn apply(
    tx: &DeadlineTransaction<'_>,
    service: &Locked,
    event: CircuitEvent,
    calls: Option<Calls>,
    actor: Option<&Actor>,
) -> Result<bool, StoreError> {
    let Ok(state) = service.state.after(event) else {
        return Ok(false);
    };
    let policy = &service.policy;
    let openings = match state {
        CircuitState::Open => service.openings + 1,
        CircuitState::HalfOpen => service.openings,
        // The number is reset when the ramp ends without another opening.
        CircuitState::Closed if event == CircuitEvent::Recover && policy.ramp_seconds > 0.0 => {
            service.openings
        }
        CircuitState::Closed => 0,
    };
    let (kind, until) = match state {
        CircuitState::Open => {
            let openings = u32::try_from(openings).unwrap_or_default();
            (
                EventType::CircuitOpened,
                Some(circuit::cool_down(policy, openings)),
            )
        }
        CircuitState::HalfOpen => (EventType::CircuitHalfOpened, Some(policy.cool_down_seconds)),
        CircuitState::Closed if event == CircuitEvent::Reset => (EventType::CircuitReset, None),
        CircuitState::Closed => (
            EventType::CircuitClosed,
            (policy.ramp_seconds > 0.0).then_some(policy.ramp_seconds),
        ),
    };
    let probes = if state == CircuitState::HalfOpen {
        signed(policy.probes)
    } else {
        0
    };
    let detail = match (actor, calls) {
        (Some(actor), _) => Some(actor.reason.clone()),
        (None, Some(calls)) => Some(format!(
            "{} of {} calls failed",
            calls.failures, calls.calls
        )),
        (None, None) => None,
    };
    let statement = tx.prepare_cached(CHANGE_STATE).await?;
    tx.execute(
        &statement,
        &[
            &service.service_id,
            &state.as_str(),
            &until,
            &openings,
            &probes,
            &kind.as_str(),
            &calls.map(|c| signed(c.calls)),
            &calls.map(|c| signed(c.failures)),
            &actor.map(|a| a.by.as_str()),
            &detail,
        ],
    )
    .await?;
    tracing::info!(
        namespace = service.namespace,
        service = service.service,
        change = kind.as_str(),
        detail,
        "circuit"
    );
    Ok(true)
}

/// The condition and the expression match the index `services_lapse`, and the subquery evaluates
/// the clock once instead of once per row.
pub const LAPSED: &str = "
    SELECT service_id, forced_until <= clock_timestamp() FROM services
     WHERE (until IS NOT NULL OR forced_until IS NOT NULL) AND least(until, forced_until) <= (SELECT clock_timestamp())
     ORDER BY service_id FOR UPDATE SKIP LOCKED";

/// Admits further probes to a half-open circuit whose probes had no result, because their workers
/// or their server are gone.
const PROBE_ANEW: &str = "
    UPDATE services s
       SET until = clock_timestamp() + make_interval(secs => $2), version = version + 1,
           probes_left = greatest(0, $3 - probes_passed - (
               SELECT count(*)::int FROM queue q JOIN lanes l ON l.lane_id = q.lane_id
                WHERE q.worker_id IS NOT NULL AND l.service_id = $1 AND q.started_at >= s.since))
     WHERE service_id = $1";

const RAMPED_UP: &str = "
    UPDATE services SET until = NULL, openings = 0, version = version + 1 WHERE service_id = $1 AND state = 'closed'";

/// Applies expired times: ends cool-downs, ramps and orders of limited duration. Returns whether
/// there was any.
pub async fn advance(db: &Db, wake: &str) -> Result<bool, StoreError> {
    let mut client = db.read().await?;
    let tx = client.transaction().await?;
    let statement = tx.prepare_cached(LAPSED).await?;
    let lapsed = tx.query(&statement, &[]).await?;
    if lapsed.is_empty() {
        return Ok(false);
    }
    let ids: Vec<i32> = lapsed.iter().map(|row| row.get(0)).collect();
    for service in lock(&tx, &ids).await? {
        let order = lapsed.iter().any(|row| {
            row.get::<_, i32>(0) == service.service_id
                && row.get::<_, Option<bool>>(1) == Some(true)
        });
        // The state under an expired order is advanced in a later round, if it has expired too.
        if order {
            release(
                &tx,
                service.service_id,
                &Actor {
                    by: "tasker".into(),
                    reason: "the order's time is over".into(),
                },
            )
            .await?;
            continue;
        }
        let id = service.service_id;
        match service.state {
            CircuitState::Open => {
                apply(&tx, &service, CircuitEvent::Probe, None, None).await?;
            }
            CircuitState::HalfOpen => {
                tx.execute(
                    "UPDATE quota_shares SET count = 0, term = term + 1 WHERE service_id = $1",
                    &[&id],
                )
                .await?;
                let probes = signed(service.policy.probes);
                tx.execute(
                    PROBE_ANEW,
                    &[&id, &service.policy.cool_down_seconds, &probes],
                )
                .await?;
            }
            CircuitState::Closed => drop(tx.execute(RAMPED_UP, &[&id]).await?),
        }
    }
    tx.execute("SELECT pg_notify($1, $2)", &[&db.channel(), &wake])
        .await?;
    tx.commit().await?;
    Ok(true)
}

const ORDER: &str = "
    WITH s AS (
        UPDATE services
           SET forced = $2::text::circuit_state, forced_by = $3, forced_reason = $4,
               forced_until = c.now + make_interval(secs => $5), version = version + 1
          FROM (SELECT clock_timestamp() AS now) c
         WHERE service_id = $1
        RETURNING c.now, forced_until),
    h AS (
        INSERT INTO circuit_changes (service_id, at, type, until, actor, detail)
        SELECT $1, now, $6::text::event_type, forced_until, $7, $8 FROM s)
    INSERT INTO events (at, type, service_id, detail, next_attempt_at)
    SELECT now, $6::text::event_type, $1, $8, forced_until FROM s";

async fn release(tx: &DeadlineTransaction<'_>, id: i32, actor: &Actor) -> Result<(), StoreError> {
    let statement = tx.prepare_cached(ORDER).await?;
    let none: Option<&str> = None;
    let kind = EventType::CircuitReleased.as_str();
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 8] = [
        &id,
        &none,
        &none,
        &none,
        &None::<f64>,
        &kind,
        &actor.by,
        &actor.reason,
    ];
    tx.execute(&statement, &params).await?;
    Ok(())
}

/// Opens or closes a circuit by order, until it is released or `seconds` have passed. `false` if
/// there is no such service.
pub async fn force(
    db: &Db,
    scope: &Scope,
    to: CircuitState,
    seconds: Option<f64>,
    actor: &Actor,
    wake: &str,
) -> Result<bool, StoreError> {
    let mut client = db.read().await?;
    let tx = client.transaction().await?;
    let Some(service) = find(&tx, scope).await? else {
        return Ok(false);
    };
    let statement = tx.prepare_cached(ORDER).await?;
    let kind = EventType::CircuitForced.as_str();
    let detail = format!("{to}: {}", actor.reason);
    tx.execute(
        &statement,
        &[
            &service.service_id,
            &to.as_str(),
            &actor.by,
            &actor.reason,
            &seconds,
            &kind,
            &actor.by,
            &detail,
        ],
    )
    .await?;
    tx.execute("SELECT pg_notify($1, $2)", &[&db.channel(), &wake])
        .await?;
    tx.commit().await?;
    Ok(true)
}

/// Clears the counted calls, a throttle and an order, and closes the circuit from any state.
pub async fn reset(db: &Db, scope: &Scope, actor: &Actor, wake: &str) -> Result<bool, StoreError> {
    let mut client = db.read().await?;
    let tx = client.transaction().await?;
    let Some(service) = find(&tx, scope).await? else {
        return Ok(false);
    };
    apply(&tx, &service, CircuitEvent::Reset, None, Some(actor)).await?;
    let clear = "UPDATE services SET forced = NULL, forced_by = NULL, forced_reason = NULL, forced_until = NULL,
                        throttled_until = NULL WHERE service_id = $1";
    tx.execute(clear, &[&service.service_id]).await?;
    tx.execute(
        "DELETE FROM service_health WHERE service_id = $1",
        &[&service.service_id],
    )
    .await?;
    tx.execute("SELECT pg_notify($1, $2)", &[&db.channel(), &wake])
        .await?;
    tx.commit().await?;
    Ok(true)
}

async fn find(tx: &DeadlineTransaction<'_>, scope: &Scope) -> Result<Option<Locked>, StoreError> {
    let find = "SELECT service_id FROM services WHERE namespace = $1 AND service = $2";
    let Some(row) = tx
        .query_opt(find, &[&scope.namespace, &scope.service])
        .await?
    else {
        return Ok(None);
    };
    Ok(lock(tx, &[row.get(0)]).await?.pop())
}

const STORE_POLICY: &str = "
    INSERT INTO service_policies (namespace, service, policy) VALUES ($1, $2, $3)
        ON CONFLICT (namespace, service) DO UPDATE SET policy = $3";

/// Changes the settings of a scope and returns the new ones; `None` if the scope names a service
/// that does not exist. Where a scope has no setting, the wider scope applies.
pub async fn set_policy(
    db: &Db,
    scope: &Scope,
    change: impl FnOnce(&Settings) -> Settings,
    actor: &Actor,
    wake: &str,
) -> Result<Option<Settings>, StoreError> {
    let mut client = db.read().await?;
    let tx = client.transaction().await?;
    let Scope { namespace, service } = scope;
    if !service.is_empty() && find(&tx, scope).await?.is_none() {
        return Ok(None);
    }
    // The table lock admits one change at a time, also of settings that do not exist yet.
    tx.batch_execute("LOCK TABLE service_policies IN SHARE ROW EXCLUSIVE MODE")
        .await?;
    let before = Policies::of(&tx.query(POLICIES, &[]).await?).set_for(namespace, service);
    let settings = change(&before);
    let json = settings.to_json();
    if settings.is_empty() {
        tx.execute(
            "DELETE FROM service_policies WHERE namespace = $1 AND service = $2",
            &[namespace, service],
        )
        .await?;
    } else {
        tx.execute(STORE_POLICY, &[namespace, service, &json])
            .await?;
    }
    let affected = "SELECT service_id FROM services
                     WHERE (namespace = $1 OR $1 = '') AND (service = $2 OR $2 = '') ORDER BY service_id FOR UPDATE";
    let ids: Vec<i32> = tx
        .query(affected, &[namespace, service])
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    let bump =
        "WITH s AS (UPDATE services SET version = version + 1 WHERE service_id = ANY($1::int4[]) RETURNING service_id),
                p AS (UPDATE quota_shares SET count = 0, term = term + 1 WHERE service_id = ANY($1::int4[])),
                w AS (DELETE FROM service_health WHERE service_id = ANY($1::int4[])),
                h AS (INSERT INTO circuit_changes (service_id, at, type, actor, detail)
                      SELECT service_id, now(), 'circuit.policy_changed', $2, $3 FROM s)
                INSERT INTO events (at, type, service_id, detail)
                SELECT now(), 'circuit.policy_changed', service_id, $3 FROM s";
    let detail = format!("{json}: {}", actor.reason);
    tx.execute(bump, &[&ids, &actor.by, &detail]).await?;
    tx.execute("SELECT pg_notify($1, $2)", &[&db.channel(), &wake])
        .await?;
    tx.commit().await?;
    Ok(Some(settings))
}

/// All settings of the cell.
pub async fn policies(db: &Db) -> Result<Policies, StoreError> {
    let client = db.read().await?;
    let all = client.prepare_cached(POLICIES).await?;
    Ok(Policies::of(&client.query(&all, &[]).await?))
}
