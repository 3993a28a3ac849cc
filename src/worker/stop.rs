//! How a worker is told to end: softly, then hard, both bounded.

use std::{future::pending, time::Duration};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// What the worker has to do about its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopEvent {
    /// Take no more steps and finish those that run. Told once.
    Drain,
    /// Drop what is left.
    End,
}

/// The two signals and the time between them.
pub(super) struct Stop {
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

    /// Whether [`StopEvent::Drain`] was told.
    pub fn is_draining(&self) -> bool {
        self.drain_until.is_some()
    }

    /// Waits for the next event. Cancel-safe.
    pub async fn next(&mut self) -> StopEvent {
        tokio::select! {
            biased;
            () = self.hard.cancelled() => StopEvent::End,
            () = self.soft.cancelled(), if self.drain_until.is_none() => {
                self.drain_until = Instant::now().checked_add(self.drain_timeout).or_else(far_future);
                StopEvent::Drain
            }
            () = at(self.drain_until) => StopEvent::End,
        }
    }
}

/// Waits until then; for ever when there is no such time.
pub(super) async fn at(time: Option<Instant>) {
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
    async fn soft_then_the_timeout() {
        let (soft, _hard, mut stop) = stop(Duration::from_millis(10));
        soft.cancel();
        assert_eq!(stop.next().await, StopEvent::Drain);
        assert!(stop.is_draining());
        assert_eq!(stop.next().await, StopEvent::End);
    }

    #[tokio::test]
    async fn hard_ends_at_once() {
        let (soft, hard, mut stop) = stop(Duration::MAX);
        soft.cancel();
        assert_eq!(stop.next().await, StopEvent::Drain);
        hard.cancel();
        assert_eq!(stop.next().await, StopEvent::End);
        assert_eq!(stop.next().await, StopEvent::End);
    }
}
