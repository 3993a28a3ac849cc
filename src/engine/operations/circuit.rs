//! Orders of operators about circuits, and the policies of services.

use crate::{
    domain::{circuit::CircuitState, policy::Settings},
    engine::{admission::circuits, context::EngineContext},
    store::{
        StoreError,
        service::{self, Actor, Scope},
    },
};

/// Changes the settings of a service, a namespace or the cell. Returns them, or `None` if the scope
/// does not exist.
pub async fn set_policy(
    context: &EngineContext,
    scope: &Scope,
    change: impl FnOnce(&Settings) -> Settings,
    actor: &Actor,
) -> Result<Option<Settings>, StoreError> {
    let wake = context.membership.service_payload();
    let set = service::set_policy(&context.db, scope, change, actor, &wake).await?;
    if set.is_some() {
        changed(context).await;
    }
    Ok(set)
}

/// Forces a circuit open or closed, for these seconds or until a reset. Returns false if there is
/// no such service.
pub async fn force(
    context: &EngineContext,
    scope: &Scope,
    to: CircuitState,
    seconds: Option<f64>,
    actor: &Actor,
) -> Result<bool, StoreError> {
    let wake = context.membership.service_payload();
    let found = circuits::force(&context.db, scope, to, seconds, actor, &wake).await?;
    if found {
        changed(context).await;
    }
    Ok(found)
}

/// Closes a circuit and ends a forced state. Returns false if there is no such service.
pub async fn reset(
    context: &EngineContext,
    scope: &Scope,
    actor: &Actor,
) -> Result<bool, StoreError> {
    let wake = context.membership.service_payload();
    let found = circuits::reset(&context.db, scope, actor, &wake).await?;
    if found {
        changed(context).await;
    }
    Ok(found)
}

/// This server reads the change before the caller gets the answer, the others when they are
/// notified.
async fn changed(context: &EngineContext) {
    // The change is stored, so the call succeeds; a failed read of it is repeated later.
    if let Err(error) = context.templates_changed().await {
        tracing::debug!(%error, "the change of a service cannot be read yet");
    }
}
