//! The two stages of a worker's end: soft, then hard, both bounded.

use std::{future::pending, time::Duration};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// The next stage of a worker's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopEvent {
    /// Accept no more steps and finish the running ones. Returned once.
    Drain,
    /// Drop the rest.
    End,
}

/// The two signals, and the drain timeout between them.
pub(crate) struct Stop {
    soft: CancellationToken,
    hard: CancellationToken,
    drain_timeout: Duration,
    drain_until: Option<Instant>,
}

impl Stop {
    pub fn new(soft: CancellationToken, hard: CancellationToken, drain_timeout: Duration) -> Self {
        Self {
            soft,
            hard,
            drain_timeout,
            drain_until: None,
        }
    }

    /// Whether `next` has returned [`StopEvent::Drain`].
    pub fn is_draining(&self) -> bool {
        self.drain_until.is_some()
    }

    /// Waits for the next event. Cancel-safe.
    pub async fn next(&mut self) -> StopEvent {
        tokio::select! {
            // The hard stop first: it has to win over a drain that is due at the same moment.
            biased;
            () = self.hard.cancelled() => StopEvent::End,
            () = self.soft.cancelled(), if self.drain_until.is_none() => {
                // `Duration::MAX` means no limit, but is beyond the range of the clock.
                self.drain_until = Instant::now().checked_add(self.drain_timeout).or_else(far_future);
                StopEvent::Drain
            }
            () = at(self.drain_until) => StopEvent::End,
        }
    }
}

/// Waits until the given time; forever without one.
pub(crate) async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

/// A year from now, for a drain timeout that means "as long as it takes".
fn far_future() -> Option<Instant> {
    Some(Instant::now() + Duration::from_secs(365 * 24 * 3600))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stop(drain_timeout: Duration) -> (CancellationToken, CancellationToken, Stop) {
        let (soft, hard) = (CancellationToken::new(), CancellationToken::new());
        let stop = Stop::new(soft.clone(), hard.clone(), drain_timeout);
        (soft, hard, stop)
    }

    #[tokio::test]
    async fn soft_stop_becomes_hard_after_the_time_out() {
        let (soft, _hard, mut stop) = stop(Duration::from_millis(10));
        soft.cancel();
        assert_eq!(stop.next().await, StopEvent::Drain);
        assert!(stop.is_draining());
        assert_eq!(stop.next().await, StopEvent::End);
    }

    #[tokio::test]
    async fn hard_stop_takes_effect_immediately() {
        let (soft, hard, mut stop) = stop(Duration::MAX);
        soft.cancel();
        assert_eq!(stop.next().await, StopEvent::Drain);
        hard.cancel();
        assert_eq!(stop.next().await, StopEvent::End);
        assert_eq!(stop.next().await, StopEvent::End);
    }
}
