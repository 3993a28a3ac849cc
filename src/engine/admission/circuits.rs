//! The transactions that change circuits: each locks the services, decides by `domain::circuit`, and
//! writes.

use crate::{
    domain::circuit::{CircuitEvent, CircuitState, CircuitVerdict},
    store::{
        Db, StoreError,
        service::{
            Actor, Scope,
            circuit::{CallReport, CircuitTransaction, LockedService},
        },
    },
};

/// Adds the reported calls to the windows, and changes the circuits whose thresholds they cross. If
/// any circuit changed, it sends `wake` to the other servers and returns true.
pub async fn report(db: &Db, reports: &[CallReport], wake: &str) -> Result<bool, StoreError> {
    let mut client = db.read().await?;
    let tx = CircuitTransaction::begin(db, &mut client).await?;
    let ids: Vec<i32> = reports.iter().map(|report| report.service_id).collect();
    let mut changed = false;
    for service in tx.lock(&ids).await? {
        let report = reports.iter().find(|r| r.service_id == service.service_id);
        let Some(report) = report else { continue };
        let window = tx.count(&service, report.calls).await?;
        match service
            .circuit
            .judge(&service.policy, window, report.probes)
        {
            CircuitVerdict::Changed(change, calls) => {
                tx.change(&service, &change, Some(calls), None).await?;
                changed = true;
            }
            CircuitVerdict::ProbesPassed(probes) => {
                tx.count_probes(service.service_id, probes).await?;
            }
            CircuitVerdict::Unchanged => {}
        }
    }
    tx.commit(changed.then_some(wake)).await?;
    Ok(changed)
}

/// Applies expired times: ends cool-downs, ramps and orders of limited duration. Returns whether
/// there was any.
pub async fn advance(db: &Db, wake: &str) -> Result<bool, StoreError> {
    let mut client = db.read().await?;
    let tx = CircuitTransaction::begin(db, &mut client).await?;
    let lapsed = tx.lapsed().await?;
    if lapsed.is_empty() {
        return Ok(false);
    }
    let expired = Actor {
        by: "tasker".into(),
        reason: "the order's time is over".into(),
    };
    let ids: Vec<i32> = lapsed.iter().map(|lapsed| lapsed.service_id).collect();
    for service in tx.lock(&ids).await? {
        let id = service.service_id;
        // The state under an expired order is advanced in a later round, if it has expired too.
        if lapsed.iter().any(|l| l.service_id == id && l.order) {
            tx.release(id, &expired).await?;
        } else {
            end_state(&tx, &service).await?;
        }
    }
    tx.commit(Some(wake)).await?;
    Ok(true)
}

/// Ends a state whose time is over.
async fn end_state(tx: &CircuitTransaction<'_>, service: &LockedService) -> Result<(), StoreError> {
    match service.circuit.state {
        CircuitState::Open => apply(tx, service, CircuitEvent::Probe, None).await,
        // The probes had no result, because their workers or their server are gone.
        CircuitState::HalfOpen => tx.probe_anew(service).await,
        CircuitState::Closed => tx.end_ramp(service.service_id).await,
    }
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
    let tx = CircuitTransaction::begin(db, &mut client).await?;
    let Some(service) = tx.find(scope).await? else {
        return Ok(false);
    };
    tx.force(service.service_id, to, seconds, actor).await?;
    tx.commit(Some(wake)).await?;
    Ok(true)
}

/// Clears the counted calls, a throttle and an order, and closes the circuit from any state.
/// `false` if there is no such service.
pub async fn reset(db: &Db, scope: &Scope, actor: &Actor, wake: &str) -> Result<bool, StoreError> {
    let mut client = db.read().await?;
    let tx = CircuitTransaction::begin(db, &mut client).await?;
    let Some(service) = tx.find(scope).await? else {
        return Ok(false);
    };
    apply(&tx, &service, CircuitEvent::Reset, Some(actor)).await?;
    tx.clear(service.service_id).await?;
    tx.commit(Some(wake)).await?;
    Ok(true)
}

/// Changes a circuit, unless its state does not allow the event.
async fn apply(
    tx: &CircuitTransaction<'_>,
    service: &LockedService,
    event: CircuitEvent,
    actor: Option<&Actor>,
) -> Result<(), StoreError> {
    match service.circuit.change(&service.policy, event) {
        Ok(change) => tx.change(service, &change, None, actor).await,
        Err(_) => Ok(()),
    }
}
