//! The context that the engine's loops share.

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
use crate::store::{
    Db, StoreError,
    pipeline::{Changes, Pipeline},
};

/// Handles that every loop holds. Cheap to clone.
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

    /// Refreshes the admission state and requests a scan of the lanes whose services opened.
    pub async fn refresh_gates(&self) -> Result<(), StoreError> {
        let opened = self.gates.refresh(&self.db, &self.catalog).await?;
        self.hub.steps_wait(opened);
        Ok(())
    }

    /// Counts a committed transaction and records its spans and log lines.
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

    /// A connection for a loop. Only a failure to connect twice means that the database is away: a
    /// connection that breaks, even a new one, does not tell whether the next one works. A lock
    /// time-out while statements are prepared does not count either.
    pub async fn connect(&self) -> Result<Pipeline, StoreError> {
        if let Ok(hot) = Pipeline::connect(&self.db).await {
            return Ok(hot);
        }
        Pipeline::connect(&self.db).await.inspect_err(|error| {
            if error.is_transient() && error.collision().is_none() {
                self.health.away(error);
            }
        })
    }
}
