//! The content of a notification between servers.

/// The content of a notification; one letter each on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Notification {
    /// Steps wait for workers.
    pub(super) work: bool,
    /// Tasks have changed.
    pub(super) moved: bool,
    /// Attempts were ended by another server.
    pub(super) cancels: bool,
    /// A template was registered, retired or restored.
    pub(super) templates: bool,
    /// The admission state of a service changed.
    pub(super) services: bool,
    /// Events were written.
    pub(super) events: bool,
    /// The sender has a first subscriber and needs a notification of every event from now on.
    pub(super) listened: bool,
    /// Lanes or services were removed.
    pub(super) gone: bool,
    /// The connection to the database is new, and the database may be another one.
    pub(super) anew: bool,
}

impl Notification {
    pub(super) fn merge(&mut self, other: Self) {
        self.work |= other.work;
        self.moved |= other.moved;
        self.cancels |= other.cancels;
        self.templates |= other.templates;
        self.services |= other.services;
        self.events |= other.events;
        self.listened |= other.listened;
        self.gone |= other.gone;
        self.anew |= other.anew;
    }
}
