//! What the engine's loops have in common.

use std::sync::Arc;

use super::{
    catalog::Catalog, documents::Documents, health::HealthCell, held::Held, hub::Hub, peers::Peers, watch::Watchers,
};
use crate::store::Db;

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
