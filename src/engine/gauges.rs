//! The present numbers of a server, for its metrics.

use std::{sync::Arc, time::Duration};

use super::{
    cache::backlog::{Backlog, Waiting},
    context::EngineContext,
    maintenance::auditor::Audits,
    observe::{health::Health, metrics::MAX_LABEL_SETS},
};
use crate::store::collision_metrics::Collision;

/// Numbers at one moment, which no counter accumulates.
#[derive(Clone, Debug)]
pub struct Gauges {
    pub health: Health,
    /// The steps that wait, by lane; `None` while the database is away.
    pub waiting: Option<Arc<Vec<Waiting>>>,
    pub workers: usize,
    pub slots_used: usize,
    pub slots_free: usize,
    pub subscribers: usize,
    pub event_lag: Duration,
    /// Inputs that wait for an evaluation thread.
    pub judging: usize,
    /// The longest time that a loop with work has made no progress.
    pub stalled: Duration,
    pub collisions: [(&'static str, u64); 3],
    /// Number found, repaired, and not repairable.
    pub audits: [u64; 3],
    /// The namespace and the name of each service, and the state of its circuit.
    pub circuits: Vec<([String; 2], &'static str)>,
    pub service_rows_read: u64,
}

impl Gauges {
    pub(super) async fn read(context: &EngineContext, audits: &Audits, backlog: &Backlog) -> Self {
        let health = context.health.now();
        let waiting = if health.database_away {
            None
        } else {
            backlog.read().await.ok()
        };
        let (workers, slots_used, slots_free) = context.registry.slots();
        let collisions = context.db.collisions();
        Self {
            health,
            waiting,
            workers,
            slots_used,
            slots_free,
            subscribers: context.events.subscribers(),
            event_lag: context.events.lag(),
            judging: context.evaluator.waiting(),
            stalled: context
                .pulses
                .slowest()
                .map_or(Duration::ZERO, |(_, since)| since),
            collisions: [
                ("serialization", collisions.get(Collision::Serialization)),
                ("deadlock", collisions.get(Collision::Deadlock)),
                ("lock", collisions.get(Collision::Lock)),
            ],
            audits: [audits.found(), audits.repaired(), audits.standing()],
            circuits: context.admission.states(MAX_LABEL_SETS),
            service_rows_read: context.admission.rows_read(),
        }
    }
}
