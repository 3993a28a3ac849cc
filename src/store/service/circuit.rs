//! Changes of circuits: the steps of a transaction that locks services, counts their calls and
//! writes the changes that the engine has decided on.

use tokio_postgres::types::ToSql;

use super::{
    Actor, Scope,
    policy::{POLICIES, Policies},
    state,
};
use crate::{
    domain::{
        circuit::{Calls, Circuit, CircuitState, CircuitTransition},
        event::EventType,
        policy::Policy,
    },
    store::{
        Db, StoreError,
        count::{column, count},
        deadline::{DeadlineClient, DeadlineTransaction},
    },
};

/// Number of slices into which a circuit's window is divided; the counted window is up to one slice
/// shorter than configured.
pub const SLICES: f64 = 10.0;

/// The outcomes of one service's attempts since the last report.
#[derive(Clone, Copy, Debug)]
pub struct CallReport {
    pub service_id: i32,
    pub calls: Calls,
    /// Those of them that started while the circuit was half-open.
    pub probes: Calls,
}

/// A service's row under lock.
#[derive(Clone, Debug)]
pub struct LockedService {
    pub service_id: i32,
    pub namespace: String,
    pub service: String,
    pub circuit: Circuit,
    pub policy: Policy,
}

/// A service with a state or an order whose time is over.
#[derive(Clone, Copy, Debug)]
pub struct Lapsed {
    pub service_id: i32,
    /// Whether the time of an operator's order is over; else it is that of the state.
    pub order: bool,
}

/// A transaction that changes circuits. It writes nothing unless it commits.
pub struct CircuitTransaction<'a> {
    pub(super) tx: DeadlineTransaction<'a>,
    channel: String,
}

const LOCK: &str = "
    SELECT service_id, namespace, service, state::text, openings, probes_passed
      FROM services WHERE service_id = ANY($1::int4[]) ORDER BY service_id FOR UPDATE";

const COUNT: &str = "
    WITH k AS (SELECT floor(extract(epoch FROM clock_timestamp()) * $4::float8 / $5::float8)::bigint AS slice),
    old AS (DELETE FROM service_health h USING k WHERE h.service_id = $1 AND h.slice <= k.slice - $4::float8::bigint),
    new AS (
        INSERT INTO service_health AS h (service_id, slice, calls, failures) SELECT $1, k.slice, $2, $3 FROM k
            ON CONFLICT (service_id, slice) DO UPDATE SET calls = h.calls + $2, failures = h.failures + $3)
    SELECT $2 + coalesce(sum(h.calls), 0)::int, $3 + coalesce(sum(h.failures), 0)::int
      FROM k LEFT JOIN service_health h ON h.service_id = $1 AND h.slice > k.slice - $4::float8::bigint";

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
    INSERT INTO events (at, type, service_id, actor, detail, next_attempt_at)
    SELECT since, $6::text::event_type, $1, $9, $10, until FROM s";

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
    INSERT INTO events (at, type, service_id, actor, detail, next_attempt_at)
    SELECT now, $6::text::event_type, $1, $7, $8, forced_until FROM s";

impl<'a> CircuitTransaction<'a> {
    pub async fn begin(db: &Db, client: &'a mut DeadlineClient) -> Result<Self, StoreError> {
        Ok(Self {
            tx: client.transaction().await?,
            channel: db.channel(),
        })
    }

    /// Locks services in the order of their ids.
    pub async fn lock(&self, ids: &[i32]) -> Result<Vec<LockedService>, StoreError> {
        let statement = self.tx.prepare_cached(LOCK).await?;
        let rows = self.tx.query(&statement, &[&ids]).await?;
        let all = self.tx.prepare_cached(POLICIES).await?;
        let policies = Policies::of(&self.tx.query(&all, &[]).await?);
        rows.iter()
            .map(|row| {
                let (namespace, service): (String, String) = (row.get(1), row.get(2));
                Ok(LockedService {
                    service_id: row.get(0),
                    circuit: Circuit {
                        state: state(row.get(3))?,
                        openings: count(row.get(4)),
                        probes_passed: count(row.get(5)),
                    },
                    policy: policies.of_service(&namespace, &service),
                    namespace,
                    service,
                })
            })
            .collect()
    }

    /// Locks the service of a scope, if there is one.
    pub async fn find(&self, scope: &Scope) -> Result<Option<LockedService>, StoreError> {
        let find = "SELECT service_id FROM services WHERE namespace = $1 AND service = $2";
        let Some(row) = self
            .tx
            .query_opt(find, &[&scope.namespace, &scope.service])
            .await?
        else {
            return Ok(None);
        };
        Ok(self.lock(&[row.get(0)]).await?.pop())
    }

    /// Locks the services with an expired time, except those that another server has locked.
    pub async fn lapsed(&self) -> Result<Vec<Lapsed>, StoreError> {
        let statement = self.tx.prepare_cached(LAPSED).await?;
        let rows = self.tx.query(&statement, &[]).await?;
        Ok(rows
            .iter()
            .map(|row| Lapsed {
                service_id: row.get(0),
                order: row.get::<_, Option<bool>>(1) == Some(true),
            })
            .collect())
    }

    /// Adds calls to the window and returns its new totals.
    pub async fn count(&self, service: &LockedService, calls: Calls) -> Result<Calls, StoreError> {
        let statement = self.tx.prepare_cached(COUNT).await?;
        let row = self
            .tx
            .query_one(
                &statement,
                &[
                    &service.service_id,
                    &column(calls.calls),
                    &column(calls.failures),
                    &SLICES,
                    &service.policy.window_seconds,
                ],
            )
            .await?;
        Ok(Calls {
            calls: count(row.get(0)),
            failures: count(row.get(1)),
        })
    }

    /// Counts probes that succeeded.
    pub async fn count_probes(&self, service_id: i32, passed: u32) -> Result<(), StoreError> {
        let sql = "UPDATE services SET probes_passed = probes_passed + $2 WHERE service_id = $1";
        self.tx
            .execute(sql, &[&service_id, &column(passed)])
            .await?;
        Ok(())
    }

    /// Changes a circuit, with its history and its event. `calls` caused the change, or `actor`.
    pub async fn change(
        &self,
        service: &LockedService,
        change: &CircuitTransition,
        calls: Option<Calls>,
        actor: Option<&Actor>,
    ) -> Result<(), StoreError> {
        let detail = match (actor, calls) {
            (Some(actor), _) => Some(actor.reason.clone()),
            (None, Some(calls)) => Some(format!(
                "{} of {} calls failed",
                calls.failures, calls.calls
            )),
            (None, None) => None,
        };
        let statement = self.tx.prepare_cached(CHANGE_STATE).await?;
        let params: [&(dyn ToSql + Sync); 10] = [
            &service.service_id,
            &change.state.as_str(),
            &change.until,
            &column(change.openings),
            &column(change.probes),
            &change.event.as_str(),
            &calls.map(|calls| column(calls.calls)),
            &calls.map(|calls| column(calls.failures)),
            &actor.map(|actor| actor.by.as_str()),
            &detail,
        ];
        self.tx.execute(&statement, &params).await?;
        tracing::info!(
            namespace = service.namespace,
            service = service.service,
            change = change.event.as_str(),
            detail,
            "circuit"
        );
        Ok(())
    }

    /// Admits further probes to a half-open circuit, in place of those without a result.
    pub async fn probe_anew(&self, service: &LockedService) -> Result<(), StoreError> {
        let id = service.service_id;
        let sql = "UPDATE quota_shares SET count = 0, term = term + 1 WHERE service_id = $1";
        self.tx.execute(sql, &[&id]).await?;
        let policy = &service.policy;
        let params: [&(dyn ToSql + Sync); 3] =
            [&id, &policy.cool_down_seconds, &column(policy.probes)];
        self.tx.execute(PROBE_ANEW, &params).await?;
        Ok(())
    }

    /// Ends the ramp after a recovery.
    pub async fn end_ramp(&self, service_id: i32) -> Result<(), StoreError> {
        self.tx.execute(RAMPED_UP, &[&service_id]).await?;
        Ok(())
    }

    /// Forces a circuit open or closed, until it is released or `seconds` have passed.
    pub async fn force(
        &self,
        service_id: i32,
        to: CircuitState,
        seconds: Option<f64>,
        actor: &Actor,
    ) -> Result<(), StoreError> {
        let statement = self.tx.prepare_cached(ORDER).await?;
        let detail = format!("{to}: {}", actor.reason);
        let params: [&(dyn ToSql + Sync); 8] = [
            &service_id,
            &to.as_str(),
            &actor.by,
            &actor.reason,
            &seconds,
            &EventType::CircuitForced.as_str(),
            &actor.by,
            &detail,
        ];
        self.tx.execute(&statement, &params).await?;
        Ok(())
    }

    /// Releases a forced circuit.
    pub async fn release(&self, service_id: i32, actor: &Actor) -> Result<(), StoreError> {
        let statement = self.tx.prepare_cached(ORDER).await?;
        let none: Option<&str> = None;
        let params: [&(dyn ToSql + Sync); 8] = [
            &service_id,
            &none,
            &none,
            &none,
            &None::<f64>,
            &EventType::CircuitReleased.as_str(),
            &actor.by,
            &actor.reason,
        ];
        self.tx.execute(&statement, &params).await?;
        Ok(())
    }

    /// Discards the counted calls, a throttle and an order.
    pub async fn clear(&self, service_id: i32) -> Result<(), StoreError> {
        let clear = "UPDATE services SET forced = NULL, forced_by = NULL, forced_reason = NULL, forced_until = NULL,
                            throttled_until = NULL WHERE service_id = $1";
        self.tx.execute(clear, &[&service_id]).await?;
        let calls = "DELETE FROM service_health WHERE service_id = $1";
        self.tx.execute(calls, &[&service_id]).await?;
        Ok(())
    }

    /// Commits, and notifies the other servers of `wake`.
    pub async fn commit(self, wake: Option<&str>) -> Result<(), StoreError> {
        if let Some(wake) = wake {
            self.tx
                .execute("SELECT pg_notify($1, $2)", &[&self.channel, &wake])
                .await?;
        }
        self.tx.commit().await
    }
}
