//! The other servers of the cell, as far as this server knows them.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use uuid::Uuid;

use super::notification::Notification;

/// This server's knowledge of the others.
pub struct Membership {
    pub server_id: Uuid,
    /// The number of other servers, or [`UNKNOWN`].
    pub(super) others: AtomicI64,
    /// Another server has subscribers and needs a notification of every event.
    pub(super) listened: AtomicBool,
}

impl Membership {
    pub fn new(server_id: Uuid) -> Self {
        Self {
            server_id,
            others: AtomicI64::new(UNKNOWN),
            listened: AtomicBool::default(),
        }
    }

    /// The payload of a notification about a transaction that has written events; `None` if there
    /// is no other server or nothing to report.
    pub fn payload(
        &self,
        work: bool,
        cancels: bool,
        moved: bool,
        services: bool,
    ) -> Option<String> {
        let events = self.listened.load(Ordering::Relaxed);
        if !(work || cancels || moved || services || events)
            || self.others.load(Ordering::Relaxed) == 0
        {
            return None;
        }
        let letter = |said: bool, letter: &'static str| if said { letter } else { "" };
        let (work, moved, cancels) = (letter(work, "w"), letter(moved, "m"), letter(cancels, "c"));
        let (services, events) = (letter(services, "s"), letter(events, "e"));
        Some(format!(
            "{}:{work}{moved}{cancels}{services}{events}",
            self.server_id
        ))
    }

    /// The payload of a notification about a service.
    pub fn service_payload(&self) -> String {
        format!("{}:s", self.server_id)
    }

    /// The payload of a notification about a registered, retired or restored template.
    pub fn template_payload(&self) -> String {
        format!("{}:t", self.server_id)
    }

    /// Parses a payload; the result is empty for this server's own.
    pub(super) fn read(&self, payload: &str) -> Notification {
        match payload.split_once(':') {
            Some((from, about)) if from != self.server_id.to_string() => {
                let says = |letter| about.contains(letter);
                Notification {
                    work: says('w'),
                    moved: says('m'),
                    cancels: says('c'),
                    templates: says('t'),
                    services: says('s'),
                    events: says('e'),
                    listened: says('l'),
                    gone: says('g'),
                    anew: false,
                }
            }
            _ => Notification::default(),
        }
    }

    /// Whether there may be other servers.
    pub fn has_others(&self) -> bool {
        self.others.load(Ordering::Relaxed) != 0
    }
}

/// Before the first heartbeat the number of other servers is unknown, so notifications are sent.
const UNKNOWN: i64 = -1;
