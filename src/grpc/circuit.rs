//! `tasker.v1.CircuitService`.

use std::time::Duration;

use tonic::{Code, Request, Response, Status};

use super::{
    actor::actor,
    convert::{self, duration, timestamp},
    error, page,
};
use crate::{
    domain::{
        circuit::CircuitState,
        policy::{MAX_SECONDS, Policy, Settings},
    },
    engine::{Engine, Violated},
    proto::{self, circuit_service_server::CircuitService},
    store::service::{
        Scope,
        list::{self, ChangeRow, CircuitRow},
        policy,
    },
};

const PAGE_SIZE: usize = 100;
const MAX_PAGE_SIZE: usize = 1_000;

/// The service over an engine.
pub struct Circuits(pub Engine);

#[tonic::async_trait]
impl CircuitService for Circuits {
    async fn list_circuits(
        &self,
        request: Request<proto::ListCircuitsRequest>,
    ) -> Result<Response<proto::ListCircuitsResponse>, Status> {
        let r = request.into_inner();
        convert::name("namespace", &r.namespace)?;
        let size = page::size(r.page_size, PAGE_SIZE, MAX_PAGE_SIZE)?;
        let after = page::place(&r.namespace, &r.page_token)?
            .map(|place| page::names(&place))
            .transpose()?
            .map(|(namespace, service)| Scope { namespace, service });
        // One row more than the page has shows whether another page follows.
        let limit = i64::try_from(size).unwrap_or(i64::MAX) + 1;
        let rows = list::list(self.0.reads(), &r.namespace, after.as_ref(), limit)
            .await
            .map_err(|e| error::store(&e))?;
        let found = rows.len();
        let mut circuits: Vec<proto::Circuit> = rows.into_iter().take(size).map(circuit).collect();
        circuits.truncate(page::fitting(&circuits));
        let last = circuits.last().filter(|_| circuits.len() < found);
        let place = last.map(|last| page::of_names(&last.namespace, &last.service));
        let next_page_token = place.map(|place| page::token(&r.namespace, &place));
        Ok(Response::new(proto::ListCircuitsResponse {
            next_page_token: next_page_token.unwrap_or_default(),
            circuits,
        }))
    }

    async fn get_circuit(
        &self,
        request: Request<proto::GetCircuitRequest>,
    ) -> Result<Response<proto::GetCircuitResponse>, Status> {
        let r = request.into_inner();
        let scope = one(r.namespace, r.service)?;
        let row = self.find(&scope).await?;
        let changes = list::changes(self.0.reads(), row.service_id)
            .await
            .map_err(|e| error::store(&e))?;
        let policies = policy::read(self.0.reads())
            .await
            .map_err(|e| error::store(&e))?;
        let set =
            |namespace: &str, service: &str| Some(settings(&policies.set_for(namespace, service)));
        Ok(Response::new(proto::GetCircuitResponse {
            circuit: Some(circuit(row)),
            policy: Some(policy(
                &policies.of_service(&scope.namespace, &scope.service),
            )),
            set_for_service: set(&scope.namespace, &scope.service),
            set_for_namespace: set(&scope.namespace, ""),
            set_for_cell: set("", ""),
            changes: changes.into_iter().map(change).collect(),
        }))
    }

    async fn set_policy(
        &self,
        request: Request<proto::SetPolicyRequest>,
    ) -> Result<Response<proto::SetPolicyResponse>, Status> {
        let r = request.into_inner();
        convert::name("namespace", &r.namespace)?;
        convert::name("service", &r.service)?;
        if r.namespace.is_empty() && !r.service.is_empty() {
            return Err(error::invalid(
                "namespace",
                "empty: expected the namespace of the service",
            ));
        }
        let actor = actor(r.by, r.reason)?;
        let wanted = settings_from(&r.policy.unwrap_or_default())?;
        let conflicts = wanted.conflicts(&r.unset).into_iter();
        let conflicts: Vec<Violated> = conflicts
            .map(|(field, message)| Violated { field, message })
            .collect();
        if !conflicts.is_empty() {
            return Err(error::violations(&conflicts));
        }
        let scope = Scope {
            namespace: r.namespace,
            service: r.service,
        };
        let change = |before: &Settings| before.changed(&r.unset, &wanted);
        let set = self
            .0
            .set_policy(&scope, change, &actor)
            .await
            .map_err(|e| error::store(&e))?;
        let set = set.ok_or_else(|| not_found(&scope))?;
        Ok(Response::new(proto::SetPolicyResponse {
            policy: Some(settings(&set)),
        }))
    }

    async fn force_circuit(
        &self,
        request: Request<proto::ForceCircuitRequest>,
    ) -> Result<Response<proto::ForceCircuitResponse>, Status> {
        let r = request.into_inner();
        let to = match proto::CircuitState::try_from(r.state) {
            Ok(proto::CircuitState::Open) => CircuitState::Open,
            Ok(proto::CircuitState::Closed) => CircuitState::Closed,
            // Half-open belongs to the counted circuit alone; an order opens or closes.
            _ => {
                return Err(error::invalid(
                    "state",
                    "expected CIRCUIT_STATE_OPEN or CIRCUIT_STATE_CLOSED",
                ));
            }
        };
        let seconds = expiry(r.expires_after)?;
        let actor = actor(r.by, r.reason)?;
        let scope = one(r.namespace, r.service)?;
        let found = self
            .0
            .force_circuit(&scope, to, seconds, &actor)
            .await
            .map_err(|e| error::store(&e))?;
        if !found {
            return Err(not_found(&scope));
        }
        Ok(Response::new(proto::ForceCircuitResponse {
            circuit: Some(circuit(self.find(&scope).await?)),
        }))
    }

    async fn reset_circuit(
        &self,
        request: Request<proto::ResetCircuitRequest>,
    ) -> Result<Response<proto::ResetCircuitResponse>, Status> {
        let r = request.into_inner();
        let actor = actor(r.by, r.reason)?;
        let scope = one(r.namespace, r.service)?;
        let found = self
            .0
            .reset_circuit(&scope, &actor)
            .await
            .map_err(|e| error::store(&e))?;
        if !found {
            return Err(not_found(&scope));
        }
        Ok(Response::new(proto::ResetCircuitResponse {
            circuit: Some(circuit(self.find(&scope).await?)),
        }))
    }
}

impl Circuits {
    async fn find(&self, scope: &Scope) -> Result<CircuitRow, Status> {
        let found = list::get(self.0.reads(), scope)
            .await
            .map_err(|e| error::store(&e))?;
        found.ok_or_else(|| not_found(scope))
    }
}

fn not_found(scope: &Scope) -> Status {
    let message = format!(
        "no registered template has a service `{}` in namespace `{}`; see `tasker circuit list`",
        scope.service, scope.namespace
    );
    error::status(Code::NotFound, "SERVICE_NOT_FOUND", message)
}

/// A service with both names.
fn one(namespace: String, service: String) -> Result<Scope, Status> {
    for (field, text) in [("namespace", &namespace), ("service", &service)] {
        convert::name(field, text)?;
        if text.is_empty() {
            return Err(error::invalid(
                field,
                "empty: expected the service's name in the template",
            ));
        }
    }
    Ok(Scope { namespace, service })
}

fn expiry(after: Option<prost_types::Duration>) -> Result<Option<f64>, Status> {
    let Some(after) = after else { return Ok(None) };
    // A negative duration becomes zero, which the bound refuses.
    let seconds = Duration::try_from(after).map_or(0.0, |d| d.as_secs_f64());
    if seconds > 0.0 && seconds <= MAX_SECONDS {
        return Ok(Some(seconds));
    }
    Err(error::invalid(
        "expires_after",
        format!("expected more than 0 and at most {MAX_SECONDS} seconds"),
    ))
}

fn settings_from(p: &proto::Policy) -> Result<Settings, Status> {
    // Collected, so that one answer lists every violation.
    let mut negative = Vec::new();
    let mut count = |field: &str, n: Option<i32>| {
        let converted = n.map(u32::try_from).transpose();
        converted.unwrap_or_else(|_| {
            negative.push(Violated {
                field: format!("policy.{field}"),
                message: "expected a number of at least 0".into(),
            });
            None
        })
    };
    let settings = Settings {
        enabled: p.enabled,
        window_seconds: p.window_seconds,
        min_calls: count("min_calls", p.min_calls),
        failure_rate: p.failure_rate,
        slow_call_seconds: p.slow_call_seconds,
        cool_down_seconds: p.cool_down_seconds,
        max_cool_down_seconds: p.max_cool_down_seconds,
        probes: count("probes", p.probes),
        ramp_seconds: p.ramp_seconds,
        max_pause_seconds: p.max_pause_seconds,
        max_concurrency: count("max_concurrency", p.max_concurrency),
        per_second: p.per_second,
        burst: count("burst", p.burst),
    };
    let beyond = settings.problems().into_iter();
    negative.extend(beyond.map(|(field, message)| Violated {
        field: format!("policy.{field}"),
        message,
    }));
    if negative.is_empty() {
        Ok(settings)
    } else {
        Err(error::violations(&negative))
    }
}

fn settings(s: &Settings) -> proto::Policy {
    let count = |n: Option<u32>| n.map(|n| i32::try_from(n).unwrap_or(i32::MAX));
    proto::Policy {
        enabled: s.enabled,
        window_seconds: s.window_seconds,
        min_calls: count(s.min_calls),
        failure_rate: s.failure_rate,
        slow_call_seconds: s.slow_call_seconds,
        cool_down_seconds: s.cool_down_seconds,
        max_cool_down_seconds: s.max_cool_down_seconds,
        probes: count(s.probes),
        ramp_seconds: s.ramp_seconds,
        max_pause_seconds: s.max_pause_seconds,
        max_concurrency: count(s.max_concurrency),
        per_second: s.per_second,
        burst: count(s.burst),
    }
}

fn policy(p: &Policy) -> proto::Policy {
    settings(&Settings::of(p))
}

fn circuit_state(state: CircuitState) -> proto::CircuitState {
    match state {
        CircuitState::Closed => proto::CircuitState::Closed,
        CircuitState::Open => proto::CircuitState::Open,
        CircuitState::HalfOpen => proto::CircuitState::HalfOpen,
    }
}

fn circuit(row: CircuitRow) -> proto::Circuit {
    proto::Circuit {
        namespace: row.namespace,
        service: row.service,
        state: circuit_state(row.state).into(),
        since: Some(timestamp(row.since)),
        until: row.until.map(timestamp),
        forced: row
            .forced
            .map_or(proto::CircuitState::Unspecified, circuit_state)
            .into(),
        forced_by: row.forced_by.unwrap_or_default(),
        forced_reason: row.forced_reason.unwrap_or_default(),
        forced_until: row.forced_until.map(timestamp),
        paused_until: row.throttled_until.map(timestamp),
        window_calls: row.calls,
        window_failures: row.failures,
        steps_in_progress: row.running,
        steps_waiting: row.waiting,
        times_opened: row.times_opened,
        time_open: Some(duration(
            Duration::try_from_secs_f64(row.seconds_open.max(0.0)).unwrap_or_default(),
        )),
    }
}

fn change(row: ChangeRow) -> proto::CircuitChange {
    proto::CircuitChange {
        at: Some(timestamp(row.at)),
        r#type: row.kind,
        until: row.until.map(timestamp),
        calls: row.calls.unwrap_or_default(),
        failures: row.failures.unwrap_or_default(),
        by: row.by.unwrap_or_default(),
        detail: row.detail.unwrap_or_default(),
    }
}
