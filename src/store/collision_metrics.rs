//! CollisionMetrics of collisions between transactions, for the metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use super::StoreError;

/// A collision of two transactions, one of which Postgres aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Collision {
    Serialization,
    Deadlock,
    /// The other transaction kept its lock for longer than our lock timeout.
    Lock,
}

/// The collisions since the process started; each transaction was retried.
#[derive(Debug, Default)]
pub struct CollisionMetrics {
    serialization_failures: AtomicU64,
    deadlocks: AtomicU64,
    lock_timeouts: AtomicU64,
}

impl CollisionMetrics {
    /// CollisionMetrics the error if it is a collision.
    pub fn note(&self, error: &StoreError) {
        if let Some(kind) = error.collision() {
            self.of(kind).fetch_add(1, Ordering::Relaxed);
        }
    }

    pub fn get(&self, kind: Collision) -> u64 {
        self.of(kind).load(Ordering::Relaxed)
    }

    fn of(&self, kind: Collision) -> &AtomicU64 {
        match kind {
            Collision::Serialization => &self.serialization_failures,
            Collision::Deadlock => &self.deadlocks,
            Collision::Lock => &self.lock_timeouts,
        }
    }
}
