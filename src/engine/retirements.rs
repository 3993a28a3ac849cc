//! Retires versions of templates: no server accepts new tasks of them.

use std::{sync::Arc, time::Duration};

use super::{
    Engine,
    catalog::{Catalog, Plan},
};
use crate::store::{
    StoreError,
    collision_metrics::Collision,
    retirement::{self, Retired, Retirement, Unfinished},
    service::Actor,
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

impl Engine {
    /// Retires a version that no unfinished task uses, unless it is retired already. After a
    /// successful return, no server accepts a task of it.
    pub async fn retire(&self, plan: &Plan, actor: &Actor) -> Result<Arc<Retirement>, RetireError> {
        let id = plan.template_id;
        match self.try_retire(id, actor).await? {
            Retired::InUse(tasks) => return Err(RetireError::InUse(tasks)),
            Retired::Gone => return Err(RetireError::Gone),
            Retired::Done => {}
        }
        self.events.written();
        // The refresh reads the retirement, also one that another server committed first.
        self.catalog.refresh().await?;
        self.catalog.retirement(id).ok_or(RetireError::Gone)
    }

    async fn try_retire(&self, id: i32, actor: &Actor) -> Result<Retired, RetireError> {
        let wake = self.peers.template_news();
        for _ in 0..TRIES.0 {
            match retirement::retire(&self.db, id, actor, &wake).await {
                Err(error) if error.collision() == Some(Collision::Lock) => {
                    tokio::time::sleep(TRIES.1).await;
                }
                done => return Ok(done?),
            }
        }
        Err(RetireError::Busy)
    }
}

impl Catalog {
    /// Restores a retired version whose content was registered again. Returns false if it is not
    /// retired.
    pub(super) async fn restore(&self, plan: &Plan, wake: &str) -> Result<bool, StoreError> {
        if self.retirement(plan.template_id).is_none() {
            return Ok(false);
        }
        let actor = Actor {
            by: String::new(),
            reason: "registered again".into(),
        };
        let restored = retirement::restore(self.db(), plan.template_id, &actor, wake).await?;
        self.refresh().await?;
        restored.ok_or_else(|| {
            StoreError::Connection(
                "the retired version has just been removed; register it again".into(),
            )
        })
    }
}
