//! Reads the registered templates in pages, each with its own time limit, and compiles them on
//! blocking threads. Each page is available at once, so an aborted reading has not been in vain.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use semver::Version;
use tokio::time::Instant;

use crate::{
    engine::{
        hash::HashMap,
        observe::metrics::Metrics,
        plan::{compile::compile, compiled::Plan},
    },
    store::{
        Db, StoreError,
        retirement::{self, Change, Retirement, Standing},
        template::{self, LaneRow, Newest, TemplateRow},
    },
};

/// Interval between progress messages in the log.
const PROGRESS_EVERY: Duration = Duration::from_secs(3);

/// The templates that this server has read.
#[derive(Default)]
pub(super) struct Templates {
    pub(super) newest: Newest,
    pub(super) plans: HashMap<i32, Arc<Plan>>,
    pub(super) retired: HashMap<i32, Arc<Retirement>>,
    pub(super) versions: BTreeMap<(String, String), BTreeMap<Version, i32>>,
    pub(super) newest_lane: i32,
    /// The newest lane that the workers' slots have been set up with.
    pub(super) lanes_applied: i32,
    pub(super) lanes: Arc<Vec<LaneRow>>,
}

/// The templates in memory, with their reader.
pub(super) struct TemplateReader {
    pub(super) db: Db,
    pub(super) known: RwLock<Templates>,
    metrics: Arc<Metrics>,
}

impl TemplateReader {
    pub(super) fn new(db: Db, metrics: Arc<Metrics>) -> Self {
        Self {
            db,
            known: RwLock::default(),
            metrics,
        }
    }

    /// Reads page after page until nothing is new. The caller holds the turn.
    pub(super) async fn read(self: Arc<Self>) -> Result<(), StoreError> {
        let mut said = Instant::now();
        let started = said;
        let mut read = 0_usize;
        loop {
            let newest = self.with(|known| known.newest.template);
            // Templates come first: the lanes that are read afterwards include all that these
            // templates need.
            let rows = template::page(&self.db, newest).await?;
            let lanes = self.new_lanes().await?;
            let Some(last) = rows.last().map(|row| row.template_id) else {
                self.add(newest, Vec::new(), &lanes);
                break;
            };
            read += rows.len();
            self.add(last, self.plans(rows).await?, &lanes);
            if said.elapsed() >= PROGRESS_EVERY {
                said = Instant::now();
                tracing::info!(read, "loading the registered templates");
            }
        }
        if started.elapsed() >= PROGRESS_EVERY {
            tracing::info!(read, took = ?started.elapsed(), "the registered templates are loaded");
        }
        self.read_changes().await
    }

    /// Reads the retirements. A change of a template that is not known here yet is kept for it.
    async fn read_changes(&self) -> Result<(), StoreError> {
        loop {
            let newest = self.with(|known| known.newest.change);
            let changes = retirement::page(&self.db, newest).await?;
            if changes.is_empty() {
                return Ok(());
            }
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            for change in changes {
                known.change(change);
            }
        }
    }

    async fn new_lanes(&self) -> Result<Vec<LaneRow>, StoreError> {
        self.lanes_above(self.with(|known| known.newest_lane)).await
    }

    /// Reads all lanes and drops those that were removed. The caller holds the turn, so no lane is
    /// added meanwhile.
    pub(super) async fn read_lanes_anew(&self) -> Result<(), StoreError> {
        let lanes = self.lanes_above(0).await?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let newest = lanes.last().map_or(0, |lane| lane.lane_id);
        known.newest_lane = known.newest_lane.max(newest);
        known.lanes = Arc::new(lanes);
        Ok(())
    }

    /// The lanes with an id above `newest`, sorted by id.
    async fn lanes_above(&self, mut newest: i32) -> Result<Vec<LaneRow>, StoreError> {
        let mut lanes = Vec::new();
        loop {
            let page = template::lanes_page(&self.db, newest).await?;
            let Some(last) = page.last() else {
                return Ok(lanes);
            };
            newest = last.lane_id;
            lanes.extend(page);
        }
    }

    /// On a blocking thread, since a hostile template takes a large part of a second.
    async fn plans(self: &Arc<Self>, rows: Vec<TemplateRow>) -> Result<Vec<Arc<Plan>>, StoreError> {
        let reader = Arc::clone(self);
        let read = move |row| {
            Some(Arc::new(compile(row, |template| {
                reader.metrics.of(template)
            })?))
        };
        tokio::task::spawn_blocking(move || rows.into_iter().filter_map(read).collect())
            .await
            .map_err(|error| {
                StoreError::Corrupt(format!("a page of templates cannot be read: {error}"))
            })
    }

    fn add(&self, newest: i32, plans: Vec<Arc<Plan>>, lanes: &[LaneRow]) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.newest.template = newest;
        for plan in plans {
            let t = &plan.template;
            known
                .versions
                .entry((t.namespace.clone(), t.task_name.clone()))
                .or_default()
                .insert(t.version.clone(), plan.template_id);
            known.plans.insert(plan.template_id, plan);
        }
        if let Some(last) = lanes.last() {
            known.newest_lane = last.lane_id;
            let mut all = Vec::clone(&known.lanes);
            all.extend_from_slice(lanes);
            known.lanes = Arc::new(all);
        }
    }

    pub(super) fn with<T>(&self, read: impl FnOnce(&Templates) -> T) -> T {
        read(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Templates {
    fn change(&mut self, change: Change) {
        self.newest.change = change.change_id;
        match change.standing {
            Standing::Retired(retirement) => {
                self.retired
                    .insert(change.template_id, Arc::new(retirement));
            }
            Standing::Restored => {
                self.retired.remove(&change.template_id);
            }
            Standing::Removed => self.forget(change.template_id),
        }
    }

    /// Removes a template by id, as its version may have been registered again under another id
    /// meanwhile.
    fn forget(&mut self, template_id: i32) {
        self.retired.remove(&template_id);
        let Some(plan) = self.plans.remove(&template_id) else {
            return;
        };
        let t = &plan.template;
        let name = (t.namespace.clone(), t.task_name.clone());
        if let Some(versions) = self.versions.get_mut(&name) {
            versions.retain(|_, id| *id != template_id);
            if versions.is_empty() {
                self.versions.remove(&name);
            }
        }
    }
}
