//! Leases and deadlines: extends the leases of the workers heard from, gives up those that fell silent, and times out
//! attempts, each by the database's clock.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    health::HealthCell,
    hub::{Hub, ToWorker},
    peers::jitter,
    pulse::Pulses,
    settle::{DEADLINE_RECHECK, Input, SettleQueue},
    shared::Shared,
};
use crate::engine::hash::HashSet;
use crate::store::{Db, StoreError, server, stranded, tidy, worker};

/// How often heartbeats are written, all in one statement; with a short lease, [`FLUSHES`] times in it.
const FLUSH: Duration = Duration::from_secs(1);
const FLUSHES: u32 = 3;
/// How soon heartbeats are written again that could not be.
const FLUSH_AGAIN: Duration = Duration::from_millis(250);
/// How often it is looked how long the database has been silent.
const SILENCE_TICK: Duration = Duration::from_millis(50);
/// The shortest silence of the database after which the streams are ended.
const MIN_SILENCE: Duration = Duration::from_millis(1_400);
/// How often silent workers are looked for.
const REAP: Duration = Duration::from_secs(1);
/// The pause between two looks for steps whose assignment is too large for all workers: they have waited for a whole lease.
const STRANDED: Duration = Duration::from_secs(5);
/// What a silent worker of another server gets on top of its lease, and an attempt on top of its deadline.
const PATIENCE: Duration = Duration::from_secs(2);
/// A pause that took so long was not one: this process, or the machine, stood still.
const STOOD_STILL: Duration = Duration::from_millis(2_500);
/// An answer that took longer comes from a database that answered nobody meanwhile.
const PROMPT: Duration = Duration::from_secs(1);
/// The most attempts given up in one go.
const REAP_LIMIT: i64 = 1_000;
/// How often the queue's table is looked after.
const TIDY: Duration = Duration::from_secs(5);
/// Deadlines are looked at no more often than this while attempts run.
const DEADLINE_TICK: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));

/// The workers heard from since the last flush.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<HashSet<Uuid>>>);

impl Heard {
    /// A worker gave a sign of life.
    pub fn from(&self, worker_id: Uuid) {
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

/// The loops that keep time.
#[derive(Clone)]
pub struct Leases {
    server_id: Uuid,
    db: Db,
    hub: Arc<Hub>,
    settle: SettleQueue,
    health: HealthCell,
    pulses: Pulses,
    heard: Heard,
    lease: Duration,
}

impl Leases {
    pub fn new(
        server_id: Uuid,
        shared: &Shared,
        settle: SettleQueue,
        heard: Heard,
        lease: Duration,
    ) -> Self {
        let Shared {
            db,
            hub,
            health,
            pulses,
            ..
        } = shared.clone();
        Self {
            server_id,
            db,
            hub,
            settle,
            health,
            pulses,
            heard,
            lease,
        }
    }

    /// Writes heartbeats until `shutdown`.
    pub async fn run_heartbeats(self, shutdown: CancellationToken) {
        let pace = FLUSH.min(self.lease / FLUSHES);
        let mut next = pace;
        while pause(next, &shutdown).await {
            next = pace;
            if let Err(error) = self.flush_once().await {
                tracing::debug!(%error, "heartbeats could not be written, trying again");
                next = pace.min(FLUSH_AGAIN);
            }
        }
        let _ = self.flush_once().await;
    }

    /// Extends the leases of the workers heard from, and ends the streams of those whose lease is over: nothing may be
    /// handed to them any more. Returns how many streams it ended.
    pub async fn flush_once(&self) -> Result<usize, StoreError> {
        let connected = self.hub.workers();
        if connected.is_empty() {
            return Ok(0);
        }
        let heard = self.heard.take();
        self.hub.close_stalled(self.lease);
        let over = match worker::extend(&self.db, &heard, &connected, self.lease).await {
            Ok(over) => over,
            Err(error) => {
                // Not lost: the next flush counts them again.
                heard.into_iter().for_each(|id| self.heard.from(id));
                return Err(error);
            }
        };
        self.health.database(true);
        for worker_id in &over {
            self.hub.send(*worker_id, ToWorker::Superseded);
            self.hub.remove(*worker_id);
        }
        Ok(over.len())
    }

    /// Ends all streams of a server that has lost its database, until `shutdown`: its workers can go on at another server
    /// within their leases, and nothing on the streams would say that they should. A database that is back sooner than
    /// `longest_silence` costs no stream.
    pub async fn run_watch_on_database(self, shutdown: CancellationToken) {
        let longest = longest_silence(self.lease);
        let mut silence = self.health.silence();
        let mut question = None::<JoinHandle<()>>;
        while pause(SILENCE_TICK, &shutdown).await {
            let lasts = silence.look(SILENCE_TICK);
            if lasts < longest * 3 / 4 {
                continue;
            }
            // Perhaps only nothing was asked: an idle server has little to ask.
            if question.as_ref().is_none_or(JoinHandle::is_finished) {
                question = Some(tokio::spawn(self.clone().ask()));
            }
            if lasts < longest {
                continue;
            }
            self.health.cut_off();
            // Again each time, as a stream may just have been opening.
            let streams = self.hub.close_all(|| ToWorker::CutOff);
            if streams > 0 {
                tracing::info!(
                    streams,
                    "the database is away: the worker streams are ended, their workers keep their leases"
                );
            }
        }
    }

    async fn ask(self) {
        if server::ping(&self.db).await.is_ok() {
            self.health.database(true);
        }
    }

    /// Gives up silent workers until `shutdown`.
    ///
    /// A worker is silent only if somebody could have heard it: after this server started or stood still itself, and
    /// after the database was away, nobody is given up for the length of a lease.
    pub async fn run_reaper(self, shutdown: CancellationToken) {
        let mut listening_since = Instant::now();
        let mut last_look = Instant::now();
        loop {
            if !pause(jitter(REAP), &shutdown).await {
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
                tracing::debug!(%error, "silent workers could not be looked for");
                // A look that failed, or took too long, may have had its own reason.
                away = server::ping(&self.db)
                    .await
                    .err()
                    .filter(StoreError::is_transient);
            }
            if !listened {
                // Only now: it may have come back in the middle of the look, and with it the heartbeats.
                listening_since = Instant::now();
            }
            match away {
                Some(error) => self.health.away(&error),
                None => self.health.database(true),
            }
            last_look = Instant::now();
        }
    }

    /// Ends lapsed connections and sends their attempts, those that nobody timed out, and the tasks whose deadline passed to
    /// the settler; returns how many. `now` is what the database's clock has just said.
    pub async fn reap_once(&self, now: SystemTime) -> Result<usize, StoreError> {
        let reaped = worker::reap(&self.db, self.server_id, PATIENCE, REAP_LIMIT, now).await?;
        for worker_id in reaped
            .lost
            .iter()
            .chain(reaped.orphans.iter().map(|orphan| &orphan.worker_id))
        {
            self.hub.send(*worker_id, ToWorker::Superseded);
            self.hub.remove(*worker_id);
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

    /// Ends steps whose assignment no connected worker has taken for the length of a lease, until `shutdown`.
    pub async fn run_stranded(self, shutdown: CancellationToken) {
        while pause(jitter(STRANDED), &shutdown).await {
            match stranded::find(&self.db, self.lease, REAP_LIMIT).await {
                Ok(found) => {
                    for step in found {
                        let _ = self.settle.push(Input::TooLarge(step)).await;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "steps that are too large for all workers could not be looked for");
                }
            }
        }
    }

    /// Keeps the queue's table small until `shutdown`.
    pub async fn run_tidy(self, shutdown: CancellationToken) {
        while pause(jitter(TIDY), &shutdown).await {
            if let Err(error) = tidy::queue(&self.db).await {
                tracing::debug!(%error, "the queue could not be vacuumed");
            }
        }
    }

    /// Times out attempts until `shutdown`.
    pub async fn run_deadlines(self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.hub.sooner() => {}
            }
            while let Some(next) = self.hub.next_deadline() {
                let wait = next.saturating_duration_since(Instant::now());
                if !pause(wait.clamp(DEADLINE_TICK.0, DEADLINE_TICK.1), &shutdown).await {
                    return;
                }
                for lease in self.hub.overdue(DEADLINE_RECHECK) {
                    let _ = self.settle.push(Input::Deadline { lease }).await;
                }
            }
        }
    }
}

/// How long the database may be silent before the streams are ended: so short that half a lease is not over, and a worker has
/// the other half to find another server.
fn longest_silence(lease: Duration) -> Duration {
    (lease * 3 / 8).max(MIN_SILENCE)
}

/// Sleeps; `false` when `shutdown` came first.
pub(super) async fn pause(time: Duration, shutdown: &CancellationToken) -> bool {
    tokio::select! {
        () = tokio::time::sleep(time) => true,
        () = shutdown.cancelled() => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_ends_before_half_a_lease_is_over() {
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
