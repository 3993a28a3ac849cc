//! Accepts connections: as many as the process has file descriptors for, of which one address gets
//! a share; without a free descriptor it backs off instead of spinning.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use futures_util::{Stream, stream::unfold};
use tokio::net::{TcpListener, TcpStream};

use super::quiet::NotQuiet;
use crate::engine::edge::{EdgeCounts, Refusal};

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
/// Wait for a free descriptor before the next try.
const BACK_OFF: Duration = Duration::from_millis(100);
/// Interval between log lines about refused connections.
const SAID_EVERY: Duration = Duration::from_secs(60);

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

/// Raises this process's limit of file descriptors to the maximum that the system allows. On
/// failure the limit stays.
pub fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "the limit of open files stays as it is");
        }
    }
}

/// The accepted connections within the bounds.
pub fn connections(
    listener: TcpListener,
    limits: Limits,
    counts: Arc<EdgeCounts>,
) -> impl Stream<Item = io::Result<NotQuiet>> {
    let door = Door {
        limits,
        counts,
        peers: Arc::default(),
        said: None,
    };
    unfold((listener, door), |(listener, mut door)| async move {
        let connection = door.next(|| listener.accept()).await;
        Some((Ok(connection), (listener, door)))
    })
}

struct Door {
    limits: Limits,
    counts: Arc<EdgeCounts>,
    peers: Arc<Mutex<HashMap<IpAddr, usize>>>,
    /// Time of the last log line about a refused connection.
    said: Option<Instant>,
}

impl Door {
    async fn next<F>(&mut self, accept: impl Fn() -> F) -> NotQuiet
    where
        F: Future<Output = io::Result<(TcpStream, SocketAddr)>>,
    {
        let mut waiting = false;
        loop {
            let (stream, peer) = match accept().await {
                Ok(accepted) => accepted,
                Err(error) if is_over(&error) => continue,
                Err(error) => {
                    self.counts.not_accepted.add(1);
                    if !std::mem::replace(&mut waiting, true) {
                        let open = self.counts.connections();
                        tracing::warn!(%error, open, "no connection can be accepted for now: raise the limit of open files");
                    }
                    tokio::time::sleep(BACK_OFF).await;
                    continue;
                }
            };
            if std::mem::take(&mut waiting) {
                tracing::info!("connections are accepted again");
            }
            match self.seat(peer.ip()) {
                Ok(seat) => {
                    // A small answer is sent without waiting for another one; on failure it is only
                    // slower.
                    let _ = stream.set_nodelay(true);
                    return NotQuiet::new(stream, seat);
                }
                Err(refusal) => self.refuse(refusal, peer),
            }
        }
    }

    fn seat(&self, address: IpAddr) -> Result<Seat, Refusal> {
        let address = whose(address);
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
        Ok(Seat {
            counts: Arc::clone(&self.counts),
            peers: Arc::clone(&self.peers),
            address,
        })
    }

    /// The drop closes the connection, so the client sees at once that it has to use another
    /// server.
    fn refuse(&mut self, refusal: Refusal, peer: SocketAddr) {
        self.counts.refused(refusal);
        if self.said.is_none_or(|said| said.elapsed() >= SAID_EVERY) {
            self.said = Some(Instant::now());
            let Limits { all, one_address } = self.limits;
            let reason = refusal.as_str();
            tracing::warn!(%peer, reason, all, one_address, "connections are refused: there are too many");
        }
    }
}

/// One of the bounded connections, until the drop.
pub struct Seat {
    counts: Arc<EdgeCounts>,
    peers: Arc<Mutex<HashMap<IpAddr, usize>>>,
    address: IpAddr,
}

#[cfg(test)]
impl Seat {
    /// A seat with counters of its own, for a single connection.
    pub fn only() -> Self {
        let counts = Arc::<EdgeCounts>::default();
        counts.open.store(1, Relaxed);
        Self {
            counts,
            peers: Arc::default(),
            address: Ipv6Addr::LOCALHOST.into(),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.counts.open.fetch_sub(1, Relaxed);
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of_peer) = peers.get_mut(&self.address) {
            *of_peer -= 1;
            if *of_peer == 0 {
                peers.remove(&self.address);
            }
        }
    }
}

/// Whether the error concerns only one connection, which ended before it was accepted.
fn is_over(error: &io::Error) -> bool {
    use io::ErrorKind as K;
    matches!(
        error.kind(),
        K::ConnectionAborted | K::ConnectionReset | K::Interrupted
    )
}

/// The address that counts as one peer: of IPv6 the network.
fn whose(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & NETWORK)),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    fn door(all: usize, one_address: usize) -> Door {
        Door {
            limits: Limits { all, one_address },
            counts: Arc::default(),
            peers: Arc::default(),
            said: None,
        }
    }

    #[test]
    fn the_limit_follows_from_the_file_descriptors() {
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
    fn an_address_leaves_some_to_others() {
        let door = door(3, 2);
        let at = |text: &str| door.seat(text.parse().unwrap());
        let seats = [
            at("10.0.0.1").unwrap_or_else(|_| panic!()),
            at("::ffff:10.0.0.1").unwrap_or_else(|_| panic!()),
        ];
        assert!(matches!(at("10.0.0.1"), Err(Refusal::Peer)));
        let other = at("10.0.0.2");
        assert!(other.is_ok() && matches!(at("10.0.0.3"), Err(Refusal::Connections)));
        assert_eq!(door.counts.connections(), 3);
        drop((seats, other));
        assert_eq!(door.counts.connections(), 0);
        assert!(door.peers.lock().unwrap().is_empty());
        let same_network = [at("2001:db8::1"), at("2001:db8::2")];
        assert!(
            same_network.iter().all(Result::is_ok)
                && matches!(at("2001:db8::3"), Err(Refusal::Peer))
        );
        assert!(at("2001:db8:0:1::1").is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn without_descriptors_it_tries_ten_times_a_second() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let mut door = door(3, 2);
        let (tries, started) = (AtomicUsize::new(0), tokio::time::Instant::now());
        let (tries, listener) = (&tries, &listener);
        let accept = || async move {
            match tries.fetch_add(1, Relaxed) {
                0 => Err(io::ErrorKind::ConnectionAborted.into()),
                1..=100 => Err(rustix::io::Errno::MFILE.into()),
                _ => listener.accept().await,
            }
        };
        let _connection = door.next(accept).await;
        assert!(
            started.elapsed() >= BACK_OFF * 100,
            "{:?}",
            started.elapsed()
        );
        assert_eq!(
            (door.counts.not_accepted.get(), door.counts.connections()),
            (100, 1)
        );
    }
}
