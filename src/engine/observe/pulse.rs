//! Progress of the loops: a loop that has work and makes no progress makes its server stop serving,
//! whatever the reason.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::health::HealthCell;
use crate::engine::time::sleep_or_stop;

/// Maximum time of a loop with work and without progress.
pub const MAX_STALL: Duration = Duration::from_secs(10);
/// Interval between checks.
const LOOK: Duration = Duration::from_secs(1);
/// A check this late means that the process itself stood still, which counts against no loop.
const STOOD_STILL: Duration = Duration::from_secs(3);

/// The loops that have work, each with the time of its last progress. Cheap to clone.
#[derive(Clone, Default)]
pub struct Pulses(Arc<Mutex<BTreeMap<&'static str, Instant>>>);

impl Pulses {
    /// Records that the loop has work, or has made progress with it.
    pub fn beat(&self, name: &'static str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, Instant::now());
    }

    /// Records that the loop has no work.
    pub fn rest(&self, name: &'static str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
    }

    /// Runs one round of a loop: the loop has work until a round succeeds.
    pub async fn round<T, E>(
        &self,
        name: &'static str,
        round: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.begin(name);
        let ended = round.await;
        if ended.is_ok() {
            self.rest(name);
        }
        ended
    }

    /// Records that the loop has work, unless it had some already.
    fn begin(&self, name: &'static str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(name)
            .or_insert_with(Instant::now);
    }

    /// The loop without progress for the longest time, and that time.
    pub fn slowest(&self) -> Option<(&'static str, Duration)> {
        let beats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        beats
            .iter()
            .map(|(name, at)| (*name, at.elapsed()))
            .max_by_key(|(_, since)| *since)
    }

    /// Gives every loop that has work [`MAX_STALL`] again.
    fn restart(&self) {
        let now = Instant::now();
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values_mut()
            .for_each(|at| *at = now);
    }

    /// Checks the loops until `shutdown`.
    pub async fn run(
        self,
        health: HealthCell,
        is_stuck: impl Fn() -> bool,
        shutdown: CancellationToken,
    ) {
        let mut last = Instant::now();
        while sleep_or_stop(LOOK, &shutdown).await {
            if std::mem::replace(&mut last, Instant::now()).elapsed() > STOOD_STILL {
                self.restart();
            }
            // Without a database no loop can make progress, and `health` reports the outage itself.
            // The time counts against no loop, or the server would be NOT_SERVING again as soon as
            // the database is back.
            if health.now().database_away {
                self.restart();
            }
            let stalled = self
                .slowest()
                .filter(|(_, since)| *since > MAX_STALL)
                .map(|(name, _)| name);
            health.stalled(stalled, is_stuck());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_loop_is_not_stalled() {
        let pulses = Pulses::default();
        assert_eq!(pulses.slowest(), None);
        pulses.beat("a");
        std::thread::sleep(Duration::from_millis(2));
        pulses.beat("b");
        assert_eq!(pulses.slowest().map(|(name, _)| name), Some("a"));
        pulses.rest("a");
        assert_eq!(pulses.slowest().map(|(name, _)| name), Some("b"));
        let restarted = Instant::now();
        pulses.restart();
        assert!(
            pulses
                .slowest()
                .is_some_and(|(_, since)| since <= restarted.elapsed())
        );
        pulses.rest("b");
        assert_eq!(pulses.slowest(), None);
    }

    #[tokio::test]
    async fn failed_round_keeps_the_time_without_progress() {
        let pulses = Pulses::default();
        let round = |ended: Result<(), ()>| pulses.round("a", async move { ended });
        assert_eq!(round(Ok(())).await, Ok(()));
        assert_eq!(pulses.slowest(), None);
        assert_eq!(round(Err(())).await, Err(()));
        let failed = Instant::now();
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(round(Err(())).await, Err(()));
        let waited = failed.elapsed();
        let (name, since) = pulses.slowest().expect("it has work");
        assert!(name == "a" && since >= waited, "{since:?}");
        assert_eq!(round(Ok(())).await, Ok(()));
        assert_eq!(pulses.slowest(), None);
    }
}
