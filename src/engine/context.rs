//! The context that the engine's loops share.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    engine::{
        admission::control::Admission,
        cache::{attempts::AttemptCache, payloads::PayloadCache, templates::TemplateCache},
        cluster::membership::Membership,
        dispatch::{registry::Registry, timer::RetryTimer},
        evaluate::pool::EvaluationPool,
        events::{reader::Events, watch::Watchers},
        loops::Loops,
        observe::{
            health::HealthCell,
            metrics::{Loop, Metrics},
            pulse::Pulses,
            traces::Traces,
        },
        plan::compiled::Plans,
    },
    store::{
        Db, StoreError,
        pipeline::{Changes, Pipeline},
    },
};

/// Handles that every loop holds. Cheap to clone.
#[derive(Clone)]
pub struct EngineContext {
    pub db: Db,
    pub templates: Arc<TemplateCache>,
    pub registry: Arc<Registry>,
    pub retry_timer: Arc<RetryTimer>,
    pub admission: Admission,
    pub payloads: PayloadCache,
    pub attempts: AttemptCache,
    pub watchers: Watchers,
    pub events: Events,
    pub membership: Arc<Membership>,
    pub health: HealthCell,
    pub metrics: Arc<Metrics>,
    pub traces: Traces,
    pub evaluator: EvaluationPool,
    pub pulses: Pulses,
}

impl EngineContext {
    pub fn new(
        db: Db,
        templates: Arc<TemplateCache>,
        admission: Admission,
        events: Events,
        metrics: Arc<Metrics>,
        traces: Traces,
        loops: &Loops,
    ) -> Self {
        let health = events.health().clone();
        let membership = Membership::new(admission.server_id());
        Self {
            db,
            templates,
            registry: Arc::default(),
            retry_timer: Arc::default(),
            admission,
            payloads: PayloadCache::default(),
            attempts: AttemptCache::default(),
            watchers: Watchers::default(),
            events,
            membership: Arc::new(membership),
            health,
            evaluator: EvaluationPool::new(Arc::clone(&metrics), loops.clone()),
            pulses: Pulses::default(),
            metrics,
            traces,
        }
    }

    /// Applies the lanes and services of a newly registered template, or a change of services.
    pub async fn templates_changed(&self) -> Result<(), StoreError> {
        self.registry.relane(&self.templates.lanes());
        self.refresh_admission().await
    }

    /// Refreshes the admission state and requests a scan of the lanes whose services opened.
    pub async fn refresh_admission(&self) -> Result<(), StoreError> {
        let opened = self.admission.refresh(&self.db, &self.templates).await?;
        self.registry.mark_active(opened);
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
