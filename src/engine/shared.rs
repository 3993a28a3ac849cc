//! What the engine's loops have in common.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    catalog::Catalog,
    claims::Plans,
    documents::Documents,
    events::Events,
    gates::Gates,
    health::HealthCell,
    held::Held,
    hub::Hub,
    judge::Judge,
    metrics::{Loop, Metrics},
    peers::Peers,
    pulse::Pulses,
    traces::Traces,
    watch::Watchers,
};
use crate::store::{Db, StoreError, changes::Changes, hot::Hot};

/// Handles that every loop holds; cheap to clone.
#[derive(Clone)]
pub struct Shared {
    pub db: Db,
    pub catalog: Arc<Catalog>,
    pub hub: Arc<Hub>,
    pub gates: Gates,
    pub documents: Documents,
    pub held: Held,
    pub watchers: Watchers,
    pub events: Events,
    pub peers: Arc<Peers>,
    pub health: HealthCell,
    pub metrics: Arc<Metrics>,
    pub traces: Traces,
    pub judge: Judge,
    pub pulses: Pulses,
}

impl Shared {
    pub fn new(
        db: Db,
        catalog: Arc<Catalog>,
        gates: Gates,
        peers: Peers,
        events: Events,
        metrics: Arc<Metrics>,
        traces: Traces,
    ) -> Self {
        let health = events.health().clone();
        Self {
            db,
            catalog,
            hub: Arc::default(),
            gates,
            documents: Documents::default(),
            held: Held::default(),
            watchers: Watchers::default(),
            events,
            peers: Arc::new(peers),
            health,
            judge: Judge::new(Arc::clone(&metrics)),
            pulses: Pulses::default(),
            metrics,
            traces,
        }
    }

    /// Reads who may pass to the services, and has a look at the steps that could not before.
    pub async fn refresh_gates(&self) -> Result<(), StoreError> {
        let opened = self.gates.refresh(&self.db, &self.catalog).await?;
        self.hub.steps_wait(opened);
        Ok(())
    }

    /// After a commit: counts it, and has it told.
    pub fn committed(
        &self,
        of: Loop,
        inputs: usize,
        took: Duration,
        changes: &Changes,
        plans: &Plans,
        now: SystemTime,
    ) {
        self.metrics
            .committed(of, inputs, took, changes, plans, now);
        self.traces.committed(of, inputs, took, changes, plans, now);
    }

    /// A connection for a loop. That there is none to be had is what makes a database away; one that breaks off, be it
    /// a new one, says nothing about the next. Nor is one away in which a table is locked that a statement is prepared for.
    pub async fn connect(&self) -> Result<Hot, StoreError> {
        if let Ok(hot) = Hot::connect(&self.db).await {
            return Ok(hot);
        }
        Hot::connect(&self.db).await.inspect_err(|error| {
            if error.is_transient() && error.collision().is_none() {
                self.health.away(error);
            }
        })
    }
}
