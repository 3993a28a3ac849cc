//! Counters of the listening side of a server: refused requests and connections.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::engine::counters::Counter;

/// The reason for refusing a request or a connection before an rpc saw it.
#[derive(Clone, Copy, Debug)]
pub enum Refusal {
    /// Its host is not one of this server's names.
    Host,
    /// It came from a page of another origin.
    Origin,
    /// Its body did not arrive in time.
    Slow,
    /// The memory for bodies is used up.
    Memory,
    /// The limit of connections is reached.
    Connections,
    /// The limit of connections from one address is reached.
    Peer,
}

impl Refusal {
    pub const ALL: [Self; 6] = [
        Self::Host,
        Self::Origin,
        Self::Slow,
        Self::Memory,
        Self::Connections,
        Self::Peer,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Origin => "origin",
            Self::Slow => "slow",
            Self::Memory => "memory",
            Self::Connections => "connections",
            Self::Peer => "peer",
        }
    }
}

/// Counters of the listening side.
#[derive(Debug, Default)]
pub struct ListenerCounts {
    refusals: [Counter; Refusal::ALL.len()],
    /// Connections that are open now.
    pub open: AtomicUsize,
    /// Failures to accept a connection, for example for lack of file descriptors.
    pub not_accepted: Counter,
}

impl ListenerCounts {
    pub fn refused(&self, why: Refusal) {
        self.refusals[why as usize].add(1);
    }

    /// The number of refusals by reason.
    pub fn refusals(&self) -> [(Refusal, u64); Refusal::ALL.len()] {
        Refusal::ALL.map(|why| (why, self.refusals[why as usize].get()))
    }

    /// The number of open connections.
    pub fn connections(&self) -> usize {
        self.open.load(Relaxed)
    }
}
