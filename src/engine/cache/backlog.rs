//! The number of waiting steps per lane for operators, read on demand and at most once a second.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

use super::templates::TemplateCache;

use crate::store::{
    Db, StoreError,
    backlog::{self, MAX_LANES},
    template::LaneRow,
};

/// How long a reading is reused.
const FRESH: Duration = Duration::from_secs(1);

/// A lane with its waiting steps.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub lane: LaneRow,
    pub steps: i64,
    pub oldest: Duration,
}

/// Reads the backlog, with a cache of the last reading.
pub struct Backlog {
    db: Db,
    templates: Arc<TemplateCache>,
    last: Mutex<Option<(Instant, Arc<Vec<Waiting>>)>>,
}

impl Backlog {
    pub fn new(db: Db, templates: Arc<TemplateCache>) -> Self {
        Self {
            db,
            templates,
            last: Mutex::default(),
        }
    }

    /// The backlog of every lane that has a template, at most [`MAX_LANES`]. Concurrent callers
    /// share one reading.
    pub async fn read(&self) -> Result<Arc<Vec<Waiting>>, StoreError> {
        let mut last = self.last.lock().await;
        if let Some((at, waiting)) = last.as_ref()
            && at.elapsed() < FRESH
        {
            return Ok(Arc::clone(waiting));
        }
        let lanes = self.templates.lanes();
        let asked: Vec<i32> = lanes
            .iter()
            .take(MAX_LANES)
            .map(|lane| lane.lane_id)
            .collect();
        let found = backlog::read(&self.db, &asked).await?;
        let waiting = lanes
            .iter()
            .zip(found)
            .map(|(lane, (steps, oldest))| Waiting {
                lane: lane.clone(),
                steps,
                oldest,
            });
        let waiting = Arc::new(waiting.collect::<Vec<_>>());
        *last = Some((Instant::now(), Arc::clone(&waiting)));
        Ok(waiting)
    }
}
