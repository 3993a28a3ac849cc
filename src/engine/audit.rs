//! Looks now and then whether there is anything that nothing would ever wake. There never should be; somebody has to look.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{metrics::Metrics, peers::jitter};
use crate::store::{Db, StoreError, liveness};

/// The first look, and the time between two.
const FIRST: Duration = Duration::from_secs(5);
const BETWEEN: Duration = Duration::from_secs(60);
/// A look reads all tasks: on a large database it takes its time, and then at most this share of all time.
const SHARE: u32 = 100;

/// The auditing loop.
pub struct Audit {
    db: Db,
    metrics: Arc<Metrics>,
}

impl Audit {
    pub fn new(db: Db, metrics: Arc<Metrics>) -> Self {
        Self { db, metrics }
    }

    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut pause = FIRST;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(jitter(pause)) => {}
            }
            let asked = Instant::now();
            if let Err(error) = self.run_once().await {
                tracing::debug!(%error, "nobody could look for what nothing wakes");
            }
            pause = BETWEEN.max(asked.elapsed() * SHARE);
        }
    }

    /// One look; returns how many rows nothing would wake.
    pub async fn run_once(&self) -> Result<i64, StoreError> {
        let found = liveness::violations(&self.db).await?;
        if found > 0 {
            tracing::error!(
                found,
                "steps or tasks wait that nothing would ever wake; see the view liveness_violations"
            );
        }
        self.metrics.set_violations(found);
        Ok(found)
    }
}
