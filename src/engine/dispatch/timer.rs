//! The timer of the next retry.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;

/// Fires when the next retry is due, as far as this server knows.
#[derive(Default)]
pub struct RetryTimer {
    next: Mutex<Option<Instant>>,
    /// A retry is due earlier than the one that is waited for.
    sooner: Notify,
}

impl RetryTimer {
    /// Sets the timer to fire after `after`, unless it fires earlier.
    pub fn fire_in(&self, after: Duration) {
        let at = Instant::now() + after;
        let mut next = self.lock();
        if next.is_none_or(|known| at < known) {
            *next = Some(at);
            drop(next);
            self.sooner.notify_one();
        }
    }

    /// Waits until the timer fires, and clears it.
    pub async fn fired(&self) {
        loop {
            let next = *self.lock();
            let Some(at) = next else {
                self.sooner.notified().await;
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until(at.into()) => {
                    let mut next = self.lock();
                    if *next == Some(at) {
                        *next = None;
                    }
                    return;
                }
                () = self.sooner.notified() => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Instant>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
