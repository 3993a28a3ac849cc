//! Pauses and resumes whole templates and namespaces, on all servers.

use std::time::Duration;

use crate::{
    engine::context::EngineContext,
    store::{
        StoreError,
        pause::{self, PauseRow},
        service::Actor,
    },
};

/// Interval between checks for claims that began before a pause.
const CHECK: Duration = Duration::from_millis(10);
/// Maximum number of these checks.
const CHECKS: u32 = 200;

/// Pauses a template, or a namespace. After a successful return, none of its steps starts.
pub async fn pause(
    context: &EngineContext,
    namespace: &str,
    task_name: &str,
    actor: &Actor,
) -> Result<PauseRow, StoreError> {
    let EngineContext {
        db,
        templates,
        admission,
        membership,
        ..
    } = context;
    let row = pause::set(
        db,
        namespace,
        task_name,
        actor,
        &membership.service_payload(),
    )
    .await?;
    admission.refresh(db, templates).await?;
    // A claim that began before the pause was committed may still be made. Its transaction holds a
    // lock on the queue's table, so all holders of that lock have to end first.
    let claims = pause::claims_under_way(db).await?;
    for _ in 0..CHECKS {
        if claims.is_empty() || pause::have_ended(db, &claims).await? {
            return Ok(row);
        }
        tokio::time::sleep(CHECK).await;
    }
    // A repeated call waits again; the pause is in effect meanwhile.
    Err(StoreError::Connection(
        "a transaction that began before the pause has not ended".into(),
    ))
}

/// Lifts such a pause. Returns false if there was none.
pub async fn resume(
    context: &EngineContext,
    namespace: &str,
    task_name: &str,
    actor: &Actor,
) -> Result<bool, StoreError> {
    let EngineContext { db, membership, .. } = context;
    let lifted = pause::lift(
        db,
        namespace,
        task_name,
        actor,
        &membership.service_payload(),
    )
    .await?;
    context.refresh_admission().await?;
    Ok(lifted)
}
