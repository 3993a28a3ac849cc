//! Changes of the settings by operators.

use super::{
    Actor, Scope,
    circuit::CircuitTransaction,
    policy::{POLICIES, Policies},
};
use crate::{
    domain::policy::Settings,
    store::{Db, StoreError},
};

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
    let circuits = CircuitTransaction::begin(db, &mut client).await?;
    let Scope { namespace, service } = scope;
    if !service.is_empty() && circuits.find(scope).await?.is_none() {
        return Ok(None);
    }
    let tx = &circuits.tx;
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
                INSERT INTO events (at, type, service_id, actor, detail)
                SELECT now(), 'circuit.policy_changed', service_id, $2, $3 FROM s";
    let detail = format!("{json}: {}", actor.reason);
    tx.execute(bump, &[&ids, &actor.by, &detail]).await?;
    circuits.commit(Some(wake)).await?;
    Ok(Some(settings))
}
