//! Whether the loops get on: a loop that has work and makes no progress keeps the server from serving, whatever the reason.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{health::HealthCell, judge::Judge, leases::pause};

/// How long a loop may have work and make no progress.
pub const MAX_STALL: Duration = Duration::from_secs(10);
/// How often the loops are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The loops that have work, each with when it last made progress. Cheap to clone.
#[derive(Clone, Default)]
pub struct Pulses(Arc<Mutex<BTreeMap<&'static str, Instant>>>);

impl Pulses {
    /// The loop has work now, or has made progress with it.
    pub fn beat(&self, name: &'static str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(name, Instant::now());
    }

    /// The loop has no work.
    pub fn rest(&self, name: &'static str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
    }

    /// The loop that has gone longest without progress, and for how long.
    pub fn slowest(&self) -> Option<(&'static str, Duration)> {
        let beats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        beats
            .iter()
            .map(|(name, at)| (*name, at.elapsed()))
            .max_by_key(|(_, since)| *since)
    }

    /// Every loop that has work gets [`MAX_STALL`] anew.
    fn restart(&self) {
        let now = Instant::now();
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values_mut()
            .for_each(|at| *at = now);
    }

    /// Watches the loops until `shutdown`.
    pub async fn run(self, health: HealthCell, judge: Judge, shutdown: CancellationToken) {
        while pause(LOOK, &shutdown).await {
            // Without a database no loop can make progress, and `health` reports the outage itself. Its time counts against no
            // loop, or the server would be NOT_SERVING again as soon as the database is back.
            if health.now().database_away {
                self.restart();
            }
            let stalled = self
                .slowest()
                .filter(|(_, since)| *since > MAX_STALL)
                .map(|(name, _)| name);
            health.stalled(stalled, judge.is_stuck());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_at_rest_is_not_slow() {
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
}
