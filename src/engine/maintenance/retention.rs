//! Prunes tasks and events beyond the retention time, and creates partitions for the days to come.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::{
    engine::time::{jitter, sleep_or_stop},
    store::{
        Db, StoreError,
        retention::{self, Pruned},
        service::quota,
    },
};

/// Initial delay, so that pruning does not compete with recovery after a restart.
const FIRST: Duration = Duration::from_secs(60);
/// Pruning interval; one server prunes at a time.
const EVERY: Duration = Duration::from_secs(3_600);
/// Days for which the partitions of the event log exist in advance. The database may be without a
/// server for that long.
const AHEAD_DAYS: i32 = 3;
/// Approximate number of partitions that hold the retained events. Each read of the whole log
/// searches all of them.
const PARTITIONS: u64 = 30;
/// Maximum width of a partition, in days; also the width without pruning.
const WIDEST_DAYS: i32 = 30;
const DAY: Duration = Duration::from_secs(86_400);

/// The pruning loop.
pub struct Retention {
    pub db: Db,
    /// How long finished tasks are kept; `None` for ever.
    pub retain: Option<Duration>,
}

impl Retention {
    /// Creates partitions and prunes until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut wait = FIRST;
        while sleep_or_stop(jitter(wait), &shutdown).await {
            wait = EVERY;
            if let Err(error) = self.prepare().await {
                tracing::warn!(%error, "partitions of the event log cannot be created; events go to the default partition");
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                pruned = self.run_once() => match pruned {
                    Ok(None) => {}
                    Ok(Some(pruned)) if pruned == Pruned::default() => {}
                    Ok(Some(p)) => tracing::info!(
                        p.tasks, p.steps, p.keys, p.workers, p.circuit_changes, p.events, p.services, p.templates,
                        partitions = p.partitions.len(), "pruned"
                    ),
                    Err(error) => tracing::warn!(%error, "pruning failed; it is retried at the next interval"),
                },
            }
        }
    }

    /// Creates the partitions of the days to come. Returns their number.
    pub async fn prepare(&self) -> Result<i32, StoreError> {
        retention::prepare(&self.db, self.width(), AHEAD_DAYS).await
    }

    /// Prunes if it is this server's turn.
    pub async fn run_once(&self) -> Result<Option<Pruned>, StoreError> {
        // Half the interval, as the loops of several servers are not in step.
        if !retention::claim(&self.db, EVERY / 2).await? {
            return Ok(None);
        }
        quota::prune(&self.db).await?;
        match self.retain {
            Some(retain) => retention::prune(&self.db, retain).await.map(Some),
            None => retention::forget_workers(&self.db).await.map(|workers| {
                Some(Pruned {
                    workers,
                    ..Pruned::default()
                })
            }),
        }
    }

    /// The width of a partition, in days.
    fn width(&self) -> i32 {
        let days = self.retain.map_or(u64::MAX, |retain| {
            retain.as_secs() / DAY.as_secs() / PARTITIONS
        });
        i32::try_from(days)
            .unwrap_or(WIDEST_DAYS)
            .clamp(1, WIDEST_DAYS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn retained_events_take_about_thirty_partitions() {
        let db = Db::new("postgres://u@127.0.0.1/d", "tasker").expect("a URL");
        let width = |retain: Option<u64>| {
            Retention {
                db: db.clone(),
                retain: retain.map(|days| DAY * days as u32),
            }
            .width()
        };
        let table = [
            (Some(1), 1),
            (Some(30), 1),
            (Some(59), 1),
            (Some(60), 2),
            (Some(365), 12),
            (Some(3_650), 30),
            (None, 30),
        ];
        for (retain, days) in table {
            assert_eq!(width(retain), days, "{retain:?}");
        }
    }
}
