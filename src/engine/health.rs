//! Whether this server can do its work: it can as long as its database answers and it is not draining.

use tokio::sync::watch;

use crate::store::StoreError;

/// What keeps the server from serving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// It does not answer, or takes no writes.
    pub database_away: bool,
    /// It answers, and takes no writes.
    pub read_only: bool,
    pub draining: bool,
}

impl Health {
    /// Whether calls can be expected to succeed.
    pub fn is_serving(self) -> bool {
        !self.database_away && !self.draining
    }
}

/// The current [`Health`], shared by the loops that know and the surfaces that tell.
#[derive(Clone, Debug)]
pub struct HealthCell(watch::Sender<Health>);

impl Default for HealthCell {
    fn default() -> Self {
        Self(watch::Sender::new(Health { database_away: true, ..Health::default() }))
    }
}

impl HealthCell {
    /// Records whether the database answers, and takes writes. Says so in the log once per change.
    pub fn database(&self, answers: bool) {
        self.found(!answers, false);
    }

    /// Records why the database cannot be worked with.
    pub fn away(&self, error: &StoreError) {
        self.found(true, error.is_read_only());
    }

    fn found(&self, away: bool, read_only: bool) {
        self.0.send_if_modified(|health| {
            let changed = (health.database_away, health.read_only) != (away, read_only);
            (health.database_away, health.read_only) = (away, read_only);
            if changed && read_only {
                tracing::error!("the database is read-only; calls are refused until it takes writes");
            } else if changed && away {
                tracing::error!("the database does not answer; calls are refused until it does");
            } else if changed {
                tracing::info!("the database answers");
            }
            changed
        });
    }

    /// Records that the server is about to end.
    pub fn drain(&self) {
        self.0.send_modify(|health| health.draining = true);
    }

    pub fn now(&self) -> Health {
        *self.0.borrow()
    }

    pub fn subscribe(&self) -> watch::Receiver<Health> {
        self.0.subscribe()
    }
}
