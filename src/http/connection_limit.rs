//! Bounds on the open connections: in all, by the file descriptors of the process, and for each
//! address.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
};

use crate::engine::{ListenerCounts, Refusal};

/// Bound on the connections, however many descriptors there are.
const MAX_CONNECTIONS: usize = 10_000;
/// File descriptors reserved for everything else: connections to Postgres, certificates, the
/// runtime.
const RESERVED_FILES: usize = 128;
/// One address gets all connections except this fraction (one in four).
const LEFT_TO_OTHERS: usize = 4;
/// The bits of an IPv6 address that identify its network; the owner of the network chooses the
/// others.
const NETWORK: u128 = !0 << 64;

/// Bounds on the connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub all: usize,
    pub one_address: usize,
}

impl Limits {
    /// The bounds for this process.
    pub fn of_process() -> Self {
        use rustix::process::{Resource, getrlimit};
        Self::of(getrlimit(Resource::Nofile).current)
    }

    /// The bounds for this many file descriptors; `None` means no limit. However few there are,
    /// half of them are for connections.
    fn of(files: Option<u64>) -> Self {
        let files = files
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(usize::MAX);
        let all = files
            .saturating_sub(RESERVED_FILES)
            .max(files / 2)
            .clamp(1, MAX_CONNECTIONS);
        Self {
            all,
            one_address: all - all / LEFT_TO_OTHERS,
        }
    }
}

/// The open connections, by address.
pub struct Connections {
    pub limits: Limits,
    pub counts: Arc<ListenerCounts>,
    peers: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Connections {
    pub fn new(limits: Limits, counts: Arc<ListenerCounts>) -> Self {
        Self {
            limits,
            counts,
            peers: Arc::default(),
        }
    }

    /// Counts one more connection of this address, unless a bound is reached.
    pub fn admit(&self, address: IpAddr) -> Result<Permit, Refusal> {
        let address = peer_of(address);
        // Only the accept loop admits, so no other connection comes between this check and the
        // count.
        if self.counts.connections() >= self.limits.all {
            return Err(Refusal::Connections);
        }
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let of_peer = peers.entry(address).or_default();
        if *of_peer >= self.limits.one_address {
            return Err(Refusal::Peer);
        }
        *of_peer += 1;
        self.counts.open.fetch_add(1, Relaxed);
        Ok(Permit {
            counts: Arc::clone(&self.counts),
            peers: Arc::clone(&self.peers),
            address,
        })
    }
}

/// The place of one connection within the bounds, until the drop.
pub struct Permit {
    counts: Arc<ListenerCounts>,
    peers: Arc<Mutex<HashMap<IpAddr, usize>>>,
    address: IpAddr,
}

#[cfg(test)]
impl Permit {
    /// A permit with counters of its own, for a single connection.
    pub fn only() -> Self {
        let counts = Arc::<ListenerCounts>::default();
        counts.open.store(1, Relaxed);
        Self {
            counts,
            peers: Arc::default(),
            address: Ipv6Addr::LOCALHOST.into(),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.counts.open.fetch_sub(1, Relaxed);
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_peer) = peers.get_mut(&self.address) {
            *of_peer -= 1;
            // Addresses without a connection leave the map, which would otherwise grow with every
            // client.
            if *of_peer == 0 {
                peers.remove(&self.address);
            }
        }
    }
}

/// The address that counts as one peer: of IPv6 the network.
fn peer_of(address: IpAddr) -> IpAddr {
    // An IPv4 address that a dual-stack socket shows as IPv6 counts as IPv4; else all of them would
    // be one network.
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & NETWORK)),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_file_descriptors_reserve_some_and_stay_within_the_bound() {
        let all = |files: u64| Limits::of(Some(files)).all;
        assert_eq!(
            [0, 1, 64, 255, 256, 257, 1_024].map(all),
            [1, 1, 32, 127, 128, 129, 896]
        );
        assert_eq!(
            [10_127, 10_128, 10_129, u64::MAX].map(all),
            [9_999, 10_000, 10_000, 10_000]
        );
        assert_eq!(
            Limits::of(None),
            Limits {
                all: 10_000,
                one_address: 7_500
            }
        );
        assert_eq!(Limits::of(Some(1)).one_address, 1);
    }

    #[test]
    fn admit_from_one_address_leaves_connections_to_others() {
        let connections = Connections::new(
            Limits {
                all: 3,
                one_address: 2,
            },
            Arc::default(),
        );
        let at = |text: &str| connections.admit(text.parse().unwrap());
        let permits = [
            at("10.0.0.1").unwrap_or_else(|_| panic!()),
            at("::ffff:10.0.0.1").unwrap_or_else(|_| panic!()),
        ];
        assert!(matches!(at("10.0.0.1"), Err(Refusal::Peer)));
        let other = at("10.0.0.2");
        assert!(other.is_ok() && matches!(at("10.0.0.3"), Err(Refusal::Connections)));
        assert_eq!(connections.counts.connections(), 3);
        drop((permits, other));
        assert_eq!(connections.counts.connections(), 0);
        assert!(connections.peers.lock().unwrap().is_empty());
        let same_network = [at("2001:db8::1"), at("2001:db8::2")];
        assert!(
            same_network.iter().all(Result::is_ok)
                && matches!(at("2001:db8::3"), Err(Refusal::Peer))
        );
        assert!(at("2001:db8:0:1::1").is_ok());
    }
}
