//! The server's ability to serve: its database answers, its loops make progress, and it does not
//! drain.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use crate::store::StoreError;

/// The reasons that keep a server from serving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// The database does not answer, or takes no writes.
    pub database_away: bool,
    /// The database answers and takes no writes.
    pub read_only: bool,
    /// The database has been away for so long that this server has ended its streams; their clients
    /// go on at another server.
    pub cut_off: bool,
    pub draining: bool,
    /// A loop of the engine has work and makes no progress.
    pub stalled: Option<&'static str>,
    /// Every evaluation thread is stuck.
    pub unjudging: bool,
}

impl Health {
    /// Whether calls can be expected to succeed.
    pub fn is_serving(self) -> bool {
        !self.database_away && !self.draining && self.stalled.is_none() && !self.unjudging
    }
}

/// The current [`Health`], written by the loops and read by the surfaces.
#[derive(Clone, Debug)]
pub struct HealthCell {
    now: watch::Sender<Health>,
    /// The number of answers of the database.
    answers: Arc<AtomicU64>,
}

impl Default for HealthCell {
    fn default() -> Self {
        let now = watch::Sender::new(Health {
            database_away: true,
            ..Health::default()
        });
        Self {
            now,
            answers: Arc::default(),
        }
    }
}

impl HealthCell {
    /// Records whether the database answers and takes writes. Logs each change once.
    pub fn database(&self, answers: bool) {
        self.found(!answers, false);
    }

    /// Records why the database is not available.
    pub fn away(&self, error: &StoreError) {
        self.found(true, error.is_read_only());
    }

    fn found(&self, away: bool, read_only: bool) {
        if !away {
            self.answers.fetch_add(1, Ordering::Relaxed);
        }
        self.now.send_if_modified(|health| {
            let before = *health;
            (health.database_away, health.read_only) = (away, read_only);
            health.cut_off &= away;
            let changed = (before.database_away, before.read_only) != (away, read_only);
            if changed && read_only {
                tracing::error!(
                    "the database is read-only; calls fail with UNAVAILABLE until it accepts writes"
                );
            } else if changed && away {
                tracing::error!(
                    "the database does not answer; calls fail with UNAVAILABLE until it does"
                );
            } else if changed {
                tracing::info!("the database answers");
            }
            *health != before
        });
    }

    /// Records that the database has been away for too long.
    pub fn cut_off(&self) {
        if !self.now().database_away {
            self.database(false);
        }
        self.now
            .send_if_modified(|health| !std::mem::replace(&mut health.cut_off, true));
    }

    /// Resolves when this server is cut off from its database.
    pub async fn is_cut_off(&self) {
        let _ = self.now.subscribe().wait_for(|health| health.cut_off).await;
    }

    /// Records the loop that makes no progress, and whether all evaluation threads are stuck. Logs
    /// each change once.
    pub fn stalled(&self, stalled: Option<&'static str>, unjudging: bool) {
        self.now.send_if_modified(|health| {
            let changed = (health.stalled, health.unjudging) != (stalled, unjudging);
            if changed && let Some(name) = stalled {
                tracing::error!(
                    name,
                    "an engine loop has work and makes no progress; the server is not ready"
                );
            }
            if changed && unjudging {
                tracing::error!("every evaluation thread is stuck; the server is not ready");
            }
            (health.stalled, health.unjudging) = (stalled, unjudging);
            changed
        });
    }

    /// Records that the server drains.
    pub fn drain(&self) {
        self.now.send_modify(|health| health.draining = true);
    }

    pub fn now(&self) -> Health {
        *self.now.borrow()
    }

    pub fn subscribe(&self) -> watch::Receiver<Health> {
        self.now.subscribe()
    }

    /// Starts to measure how long the database has not answered.
    pub fn silence(&self) -> Silence {
        Silence {
            health: self.clone(),
            answers: self.answers.load(Ordering::Relaxed),
            lasts: Duration::ZERO,
        }
    }
}

/// The length of the database's silence, counted in polls at a known pace. A time in which this
/// process stood still counts as one poll, as it could not receive an answer then.
pub struct Silence {
    health: HealthCell,
    answers: u64,
    lasts: Duration,
}

impl Silence {
    /// Polls, `pace` after the last poll. Returns the time without an answer.
    pub fn look(&mut self, pace: Duration) -> Duration {
        let answers = self.health.answers.load(Ordering::Relaxed);
        self.lasts = if answers == self.answers {
            self.lasts + pace
        } else {
            Duration::ZERO
        };
        self.answers = answers;
        self.lasts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn database_silence_lasts_from_answer_to_answer() {
        let (health, pace) = (HealthCell::default(), Duration::from_millis(50));
        health.database(true);
        let mut silence = health.silence();
        assert_eq!([silence.look(pace), silence.look(pace)], [pace, pace * 2]);
        health.database(false);
        assert_eq!(silence.look(pace), pace * 3);
        health.database(true);
        assert_eq!(
            [silence.look(pace), silence.look(pace)],
            [Duration::ZERO, pace]
        );
    }

    #[tokio::test]
    async fn answer_of_the_database_ends_the_outage() {
        let health = HealthCell::default();
        health.database(true);
        health.cut_off();
        health.is_cut_off().await;
        assert_eq!(
            health.now(),
            Health {
                database_away: true,
                cut_off: true,
                ..Health::default()
            }
        );
        health.database(false);
        assert!(health.now().cut_off);
        health.database(true);
        assert_eq!(health.now(), Health::default());
    }
}
