//! Whether this server can do its work: it can as long as its database answers and it is not draining.

use tokio::sync::watch;

/// What keeps the server from serving.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    pub database_away: bool,
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
        Self(watch::Sender::new(Health { database_away: true, draining: false }))
    }
}

impl HealthCell {
    /// Records whether the database answers. Says so in the log once per change.
    pub fn database(&self, answers: bool) {
        self.0.send_if_modified(|health| {
            let changed = health.database_away == answers;
            health.database_away = !answers;
            if changed && answers {
                tracing::info!("the database answers");
            } else if changed {
                tracing::error!("the database does not answer; calls are refused until it does");
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
