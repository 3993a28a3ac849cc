//! Retires versions of templates: no server accepts new tasks of them.

use std::{sync::Arc, time::Duration};

use crate::{
    engine::{context::EngineContext, plan::compiled::Plan},
    store::{
        StoreError,
        collision_metrics::Collision,
        retirement::{self, Retired, Retirement, Unfinished},
        service::Actor,
    },
};

/// Number of tries while a submit holds the lock, and the pause between them in which other submits
/// go on.
const TRIES: (u32, Duration) = (5, Duration::from_millis(100));

/// The reason for not retiring a version.
#[derive(Debug, thiserror::Error)]
pub enum RetireError {
    #[error("{}{} of its tasks {} not finished, such as {}",
        if .0.at_least { "at least " } else { "" }, .0.tasks, if .0.tasks == 1 { "is" } else { "are" }, .0.example)]
    InUse(Unfinished),
    #[error("the template has been removed")]
    Gone,
    #[error("a submit that began earlier has not ended")]
    Busy,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Retires a version that no unfinished task uses, unless it is retired already. After a successful
/// return, no server accepts a task of it.
pub async fn retire(
    context: &EngineContext,
    plan: &Plan,
    actor: &Actor,
) -> Result<Arc<Retirement>, RetireError> {
    let id = plan.template_id;
    match try_retire(context, id, actor).await? {
        Retired::InUse(tasks) => return Err(RetireError::InUse(tasks)),
        Retired::Gone => return Err(RetireError::Gone),
        Retired::Done => {}
    }
    context.events.written();
    // The refresh reads the retirement, also one that another server committed first.
    context.templates.refresh().await?;
    context.templates.retirement(id).ok_or(RetireError::Gone)
}

async fn try_retire(
    context: &EngineContext,
    id: i32,
    actor: &Actor,
) -> Result<Retired, RetireError> {
    let wake = context.membership.template_payload();
    for _ in 0..TRIES.0 {
        match retirement::retire(&context.db, id, actor, &wake).await {
            Err(error) if error.collision() == Some(Collision::Lock) => {
                tokio::time::sleep(TRIES.1).await;
            }
            done => return Ok(done?),
        }
    }
    Err(RetireError::Busy)
}
