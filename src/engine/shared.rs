//! What the engine's loops have in common.

use std::sync::Arc;

use super::{
    catalog::Catalog, documents::Documents, health::HealthCell, held::Held, hub::Hub, peers::Peers, watch::Watchers,
};
use crate::store::{Db, StoreError, hot::Hot};

/// Handles that every loop holds; cheap to clone.
#[derive(Clone)]
pub struct Shared {
    pub db: Db,
    pub catalog: Arc<Catalog>,
    pub hub: Arc<Hub>,
    pub documents: Documents,
    pub held: Held,
    pub watchers: Watchers,
    pub peers: Arc<Peers>,
    pub health: HealthCell,
}

impl Shared {
    /// A connection for a loop. That there is none to be had is what makes a database away; one that breaks off, be it
    /// a new one, says nothing about the next.
    pub async fn connect(&self) -> Result<Hot, StoreError> {
        if let Ok(hot) = Hot::connect(&self.db).await {
            return Ok(hot);
        }
        Hot::connect(&self.db).await.inspect_err(|error| {
            if error.is_transient() {
                self.health.database(false);
            }
        })
    }
}
