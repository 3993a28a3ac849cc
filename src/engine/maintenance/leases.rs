//! Leases and deadlines: extends the leases of workers that sent heartbeats, ends those of silent
//! workers, and times out attempts, all by the database's clock.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    engine::{
        batch::queue::SettleQueue,
        context::EngineContext,
        decide::input::Input,
        dispatch::{message::ToWorker, registry::Registry},
        hash::HashSet,
        observe::{health::HealthCell, pulse::Pulses},
        time::{jitter, sleep_or_stop},
    },
    store::{Db, StoreError, server, stranded, vacuum, worker},
};

/// Interval between flushes of heartbeats, which one statement writes; with a short lease,
/// [`FLUSHES`] per lease.
const FLUSH: Duration = Duration::from_secs(1);
const FLUSHES: u32 = 3;
/// Interval before a failed flush is tried again.
const FLUSH_AGAIN: Duration = Duration::from_millis(250);
/// Interval between checks of the database's silence.
const SILENCE_TICK: Duration = Duration::from_millis(50);
/// Minimum silence of the database before the streams are ended.
const MIN_SILENCE: Duration = Duration::from_millis(1_400);
/// Interval between checks for silent workers.
const REAP: Duration = Duration::from_secs(1);
/// Interval between checks for steps whose assignment is too large for all workers; they have
/// waited for a whole lease.
const STRANDED: Duration = Duration::from_secs(5);
/// Grace beyond the lease for a silent worker of another server, and beyond the deadline for an
/// attempt.
const PATIENCE: Duration = Duration::from_secs(2);
/// A sleep that took this long means that this process, or the machine, stood still.
const STOOD_STILL: Duration = Duration::from_millis(2_500);
/// An answer that took longer comes from a database that was not responsive meanwhile.
const PROMPT: Duration = Duration::from_secs(1);
/// Maximum attempts given up in one round.
const REAP_LIMIT: i64 = 1_000;
/// Interval between vacuums of the queue's table.
const TIDY: Duration = Duration::from_secs(5);
/// Minimum and maximum interval between checks of deadlines while attempts run.
const DEADLINE_TICK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));

/// Delay before a passed deadline is checked again when the database's clock disagreed.
const DEADLINE_RECHECK: Duration = Duration::from_millis(250);

/// The workers that sent a heartbeat since the last flush.
#[derive(Clone, Default)]
pub struct Heartbeats(Arc<Mutex<HashSet<Uuid>>>);

impl Heartbeats {
    /// Records a worker's sign of life.
    pub fn record(&self, worker_id: Uuid) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(worker_id);
    }

    fn take(&self) -> Vec<Uuid> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain()
            .collect()
    }
}

/// The loops for leases and deadlines.
#[derive(Clone)]
pub struct Leases {
    server_id: Uuid,
    db: Db,
    registry: Arc<Registry>,
    settle: SettleQueue,
    health: HealthCell,
    pulses: Pulses,
    heartbeats: Heartbeats,
    lease: Duration,
}

impl Leases {
    pub fn new(
        server_id: Uuid,
        context: &EngineContext,
        settle: SettleQueue,
        heartbeats: Heartbeats,
        lease: Duration,
    ) -> Self {
        let EngineContext {
            db,
            registry,
            health,
            pulses,
            ..
        } = context.clone();
        Self {
            server_id,
            db,
            registry,
            settle,
            health,
            pulses,
            heartbeats,
            lease,
        }
    }

    /// Writes heartbeats until `shutdown`.
    pub async fn run_heartbeats(self, shutdown: CancellationToken) {
        let pace = FLUSH.min(self.lease / FLUSHES);
        let mut next = pace;
        while sleep_or_stop(next, &shutdown).await {
            next = pace;
            if let Err(error) = self.flush_once().await {
                tracing::debug!(%error, "heartbeats cannot be written; retrying");
                next = pace.min(FLUSH_AGAIN);
            }
        }
        let _ = self.flush_once().await;
    }

    /// Extends the leases of the workers in `heard`, and ends the streams of workers whose lease is
    /// over, as they must not get assignments any more. Returns the number of ended streams.
    pub async fn flush_once(&self) -> Result<usize, StoreError> {
        let connected = self.registry.workers();
        if connected.is_empty() {
            return Ok(0);
        }
        let heartbeats = self.heartbeats.take();
        self.registry.close_stalled(self.lease);
        let over = match worker::extend(&self.db, &heartbeats, &connected, self.lease).await {
            Ok(over) => over,
            Err(error) => {
                // Kept for the next flush.
                heartbeats
                    .into_iter()
                    .for_each(|id| self.heartbeats.record(id));
                return Err(error);
            }
        };
        self.health.database(true);
        for worker_id in &over {
            self.registry.send(*worker_id, ToWorker::Superseded);
            self.registry.remove(*worker_id);
        }
        Ok(over.len())
    }

    /// Ends all streams when this server has lost its database, until `shutdown`. Its workers can
    /// then continue at another server within their leases, which nothing else on the streams would
    /// make them do. An outage shorter than `longest_silence` ends no stream.
    pub async fn run_watch_on_database(self, shutdown: CancellationToken) {
        let longest = longest_silence(self.lease);
        let mut silence = self.health.silence();
        let mut question = JoinSet::new();
        while sleep_or_stop(SILENCE_TICK, &shutdown).await {
            let lasts = silence.look(SILENCE_TICK);
            if lasts < longest * 3 / 4 {
                continue;
            }
            // Perhaps no query was sent: an idle server sends few.
            while question.try_join_next().is_some() {}
            if question.is_empty() {
                question.spawn(self.clone().ask());
            }
            if lasts < longest {
                continue;
            }
            self.health.cut_off();
            // At every check, as a stream may have been opening during the last one.
            let streams = self.registry.close_all(|| ToWorker::CutOff);
            if streams > 0 {
                tracing::info!(
                    streams,
                    "the database is unavailable; the worker streams are closed, and their workers keep their leases"
                );
            }
        }
    }

    async fn ask(self) {
        if server::ping(&self.db).await.is_ok() {
            self.health.database(true);
        }
    }

    /// Ends silent workers until `shutdown`.
    ///
    /// Silence only counts while this server could have received heartbeats: after it started or
    /// stood still, and after the database was away, no worker is ended for the length of a lease.
    pub async fn run_reaper(self, shutdown: CancellationToken) {
        let mut listening_since = Instant::now();
        let mut last_look = Instant::now();
        loop {
            if !sleep_or_stop(jitter(REAP), &shutdown).await {
                return;
            }
            let was_away = self.health.now().database_away;
            if was_away || last_look.elapsed() > STOOD_STILL {
                listening_since = Instant::now();
            }
            let listens = listening_since.elapsed() >= self.lease;
            let asked = Instant::now();
            let looked = async {
                let now = server::ping(&self.db).await?;
                let prompt = asked.elapsed() < PROMPT;
                if listens && prompt {
                    self.reap_once(now).await?;
                }
                Ok::<_, StoreError>(prompt)
            };
            let looked = self.pulses.round("reaper", looked).await;
            let listened = !was_away && *looked.as_ref().unwrap_or(&false);
            let mut away = None;
            if let Err(error) = looked {
                tracing::debug!(%error, "expired workers cannot be queried");
                // The check may have failed for a reason of its own, so a ping decides.
                away = server::ping(&self.db)
                    .await
                    .err()
                    .filter(StoreError::is_transient);
            }
            if !listened {
                // Only now: the database, and with it the heartbeats, may have come back during the
                // check.
                listening_since = Instant::now();
            }
            match away {
                Some(error) => self.health.away(&error),
                None => self.health.database(true),
            }
            last_look = Instant::now();
        }
    }

    /// Ends lapsed connections. Sends the settle loop their attempts, attempts past their deadline
    /// that no server has timed out, and tasks past their deadline; returns their number. `now` is
    /// a recent reading of the database's clock.
    pub async fn reap_once(&self, now: SystemTime) -> Result<usize, StoreError> {
        let reaped = worker::reap(&self.db, self.server_id, PATIENCE, REAP_LIMIT, now).await?;
        // The streams end first: the steps released below must not be assigned to them.
        for worker_id in reaped
            .lost
            .iter()
            .chain(reaped.orphans.iter().map(|orphan| &orphan.worker_id))
        {
            self.registry.send(*worker_id, ToWorker::Superseded);
            self.registry.remove(*worker_id);
        }
        let count = reaped.orphans.len() + reaped.overdue.len() + reaped.expired.len();
        let gone = |orphan: worker::Orphan| Input::Gone {
            lease: orphan.lease,
            worker_id: orphan.worker_id,
            outcome: orphan.why.outcome(),
        };
        let overdue = reaped
            .overdue
            .into_iter()
            .map(|lease| Input::Deadline { lease });
        let expired = reaped
            .expired
            .into_iter()
            .map(|task_id| Input::Expire { task_id });
        for input in reaped
            .orphans
            .into_iter()
            .map(gone)
            .chain(overdue)
            .chain(expired)
        {
            if self.settle.push(input).await.is_err() {
                break;
            }
        }
        Ok(count)
    }

    /// Fails steps whose assignment no connected worker has taken for the length of a lease, until
    /// `shutdown`.
    pub async fn run_stranded(self, shutdown: CancellationToken) {
        while sleep_or_stop(jitter(STRANDED), &shutdown).await {
            match stranded::find(&self.db, self.lease, REAP_LIMIT).await {
                Ok(found) => {
                    for step in found {
                        let _ = self.settle.push(Input::TooLarge(step)).await;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "steps that are too large for every worker cannot be queried");
                }
            }
        }
    }

    /// Vacuums the queue's table until `shutdown`.
    pub async fn run_tidy(self, shutdown: CancellationToken) {
        while sleep_or_stop(jitter(TIDY), &shutdown).await {
            if let Err(error) = vacuum::queue(&self.db).await {
                tracing::debug!(%error, "the queue cannot be vacuumed");
            }
        }
    }

    /// Times out attempts until `shutdown`.
    pub async fn run_deadlines(self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.registry.attempt_started() => {}
            }
            while let Some(next) = self.registry.next_deadline() {
                let wait = next.saturating_duration_since(Instant::now());
                if !sleep_or_stop(wait.clamp(DEADLINE_TICK.0, DEADLINE_TICK.1), &shutdown).await {
                    return;
                }
                for lease in self.registry.overdue(DEADLINE_RECHECK) {
                    let _ = self.settle.push(Input::Deadline { lease }).await;
                }
            }
        }
    }
}

/// Maximum silence of the database before the streams are ended: less than half a lease, so a
/// worker has the other half to find another server.
fn longest_silence(lease: Duration) -> Duration {
    (lease * 3 / 8).max(MIN_SILENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_end_before_half_a_lease_without_database() {
        for (lease, longest) in [(300.0, 112.5), (10.0, 3.75), (4.0, 1.5), (3.0, 1.4)] {
            let lease = Duration::from_secs_f64(lease);
            assert_eq!(longest_silence(lease), Duration::from_secs_f64(longest));
            assert!(
                longest_silence(lease) + SILENCE_TICK < lease / 2,
                "{lease:?}"
            );
        }
        assert_eq!(longest_silence(Duration::from_secs(1)), MIN_SILENCE);
    }
}
