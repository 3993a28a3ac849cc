//! The time without a server: the back-off between attempts to reconnect, and one line in the log
//! for each end of it.

use std::{
    fmt,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::{Duration, Instant},
};

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use http::Uri;
use tracing::{debug, info, warn};

/// The first delay, the bound of the later ones; jitter adds up to as much again.
pub(crate) const MIN_DELAY: Duration = Duration::from_millis(50);
const MAX_DELAY: Duration = Duration::from_secs(5);
/// A connection that lasted this long resets the back-off. After a shorter one the delays continue
/// to grow, or reconnects would flood a server that accepts workers and then fails.
const STABLE_AFTER: Duration = Duration::from_secs(5);

pub(crate) struct Outage {
    delays: ExponentialBackoff,
    /// None while connected.
    since: Option<Instant>,
    tries: u32,
    connected_at: Option<Instant>,
}

impl Outage {
    pub fn new() -> Self {
        Self {
            delays: delays(),
            since: None,
            tries: 0,
            connected_at: None,
        }
    }

    /// Records that the connection ended or could not be opened. Returns the delay before the next
    /// attempt, at most `longest`.
    pub fn failed(
        &mut self,
        address: &Uri,
        reason: &dyn fmt::Display,
        now: Instant,
        longest: Duration,
    ) -> Duration {
        if let Some(connected_at) = self.connected_at.take()
            && now.duration_since(connected_at) >= STABLE_AFTER
        {
            self.delays = delays();
        }
        self.tries += 1;
        if self.since.is_none() {
            self.since = Some(now);
            warn!(%address, %reason, "no connection to the server; handlers continue, reconnecting");
        } else {
            debug!(%address, %reason, tries = self.tries, "still no connection to a server");
        }
        // The iterator has no end, so the default is never used.
        let delay = self.delays.next().unwrap_or(MAX_DELAY);
        if delay <= longest {
            return delay;
        }
        // Random as well, or all workers of a failed server would reconnect at the same moments.
        longest.mul_f64(0.5 + jitter() / 2.0)
    }

    /// Records that a server registered the worker.
    pub fn connected(&mut self, address: &Uri, worker_id: &str, now: Instant) {
        self.connected_at = Some(now);
        match self.since.take() {
            Some(since) => {
                let after = now.duration_since(since);
                info!(%address, worker_id, ?after, tries = self.tries, "reconnected");
            }
            None => info!(%address, worker_id, "connected"),
        }
        self.tries = 0;
    }
}

/// A random number from 0 to 1.
fn jitter() -> f64 {
    // The keys of `RandomState` are random, which spares a dependency.
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u8(0);
    let [high, low, ..] = hasher.finish().to_be_bytes();
    f64::from(u16::from_be_bytes([high, low])) / f64::from(u16::MAX)
}

fn delays() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(MIN_DELAY)
        .with_max_delay(MAX_DELAY)
        .without_max_times()
        .with_jitter()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconnect_delay_grows_until_a_connection_lasts() {
        let (address, mut now) = (Uri::from_static("http://h:1"), Instant::now());
        let mut outage = Outage::new();
        let mut bounds = MIN_DELAY..MIN_DELAY * 2;
        for _ in 0..20 {
            outage.connected(&address, "w", now);
            let delay = outage.failed(&address, &"gone", now, Duration::MAX);
            assert!(bounds.contains(&delay), "{delay:?} is not in {bounds:?}");
            let low = (bounds.start * 2).min(MAX_DELAY);
            bounds = low..low * 2;
        }
        assert_eq!(bounds.start, MAX_DELAY);
        outage.connected(&address, "w", now);
        now += STABLE_AFTER;
        assert!(outage.failed(&address, &"gone", now, Duration::MAX) < MIN_DELAY * 2);
    }

    #[test]
    fn reconnect_delay_is_bounded_by_the_leases() {
        let (address, now, longest) = (
            Uri::from_static("http://h:1"),
            Instant::now(),
            Duration::from_millis(600),
        );
        let mut outage = Outage::new();
        let delays: Vec<_> = (0..20)
            .map(|_| outage.failed(&address, &"gone", now, longest))
            .collect();
        assert!(delays.iter().all(|delay| *delay <= longest), "{delays:?}");
        assert!(
            delays[10..].iter().all(|delay| *delay >= longest / 2),
            "{delays:?}"
        );
        assert!(
            delays[10..].iter().any(|delay| *delay != delays[10]),
            "{delays:?}"
        );
    }
}
