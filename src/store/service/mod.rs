//! Services: their admission, circuits, limits and settings.
//!
//! Locks are taken on `services` first and on `quota_shares` after it, each in the order of their
//! ids, and after those of tasks.

pub mod changed;
pub mod circuit;
pub mod list;
pub mod policy;
pub mod quota;
mod set_policy;

pub use set_policy::set_policy;

use super::StoreError;
use crate::domain::{circuit::CircuitState, policy::Policy, quota::QuotaShare};

/// A service for admission. Times are seconds from the read.
#[derive(Clone, Debug)]
pub struct ServiceRow {
    pub service_id: i32,
    pub namespace: String,
    pub service: String,
    /// The admission version.
    pub version: i64,
    pub state: CircuitState,
    /// Number of openings without a recovery in between.
    pub openings: u32,
    /// Seconds in this state.
    pub age: f64,
    /// Seconds until the state ends by itself: an open circuit's cool-down, a closed one's ramp.
    pub until: Option<f64>,
    pub forced: Option<CircuitState>,
    pub forced_until: Option<f64>,
    pub throttled_until: Option<f64>,
    /// This server's quota share.
    pub share: Option<QuotaShare>,
    pub policy: Policy,
}

/// The author of a change, and the reason.
#[derive(Clone, Debug, Default)]
pub struct Actor {
    pub by: String,
    pub reason: String,
}

/// The scope of settings: a service, a namespace (no service), or the whole cell (neither).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    pub namespace: String,
    pub service: String,
}

pub(super) fn state(name: &str) -> Result<CircuitState, StoreError> {
    CircuitState::from_name(name)
        .ok_or_else(|| StoreError::Corrupt(format!("circuit state `{name}`")))
}
