//! What the listening side of a server counts: requests and connections that it refuses.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::metrics::Counter;

/// Why a request or a connection was refused before an rpc saw it.
#[derive(Clone, Copy, Debug)]
pub enum Refusal {
    /// It was for a name that is not one of this server's.
    Host,
    /// It came from a page of another origin.
    Origin,
    /// Its body did not arrive in time.
    Slow,
    /// All bodies together would take more memory than they may.
    Memory,
    /// There are as many connections as there may be.
    Connections,
    /// There are as many connections from its address as there may be.
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

/// Of the listening side.
#[derive(Debug, Default)]
pub struct EdgeCounts {
    refusals: [Counter; Refusal::ALL.len()],
    /// Connections that are open now.
    pub open: AtomicUsize,
    /// Times that a connection could not be accepted, as for want of file descriptors.
    pub not_accepted: Counter,
}

impl EdgeCounts {
    pub fn refused(&self, why: Refusal) {
        self.refusals[why as usize].add(1);
    }

    /// How often what was refused.
    pub fn refusals(&self) -> [(Refusal, u64); Refusal::ALL.len()] {
        Refusal::ALL.map(|why| (why, self.refusals[why as usize].get()))
    }

    /// How many connections are open now.
    pub fn connections(&self) -> usize {
        self.open.load(Relaxed)
    }
}
