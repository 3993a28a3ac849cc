//! Accepts connections: as many as the process has file descriptors for, of which one address gets
//! a share; without a free descriptor it backs off instead of spinning.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{Stream, stream::unfold};
use tokio::net::{TcpListener, TcpStream};

use super::{
    connection_limit::{Connections, Limits},
    first_byte_timeout::TimedStream,
};
use crate::engine::{ListenerCounts, Refusal};

/// Wait for a free descriptor before the next try.
const BACK_OFF: Duration = Duration::from_millis(100);
/// Interval between log lines about refused connections.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Raises this process's limit of file descriptors to the maximum that the system allows. On
/// failure the limit stays.
pub fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        limit.current = limit.maximum;
        // The server works with the old limit too, with fewer connections.
        if let Err(error) = setrlimit(Resource::Nofile, limit) {
            tracing::debug!(%error, "the limit of open files cannot be raised");
        }
    }
}

/// The accepted connections within the bounds.
pub fn connections(
    listener: TcpListener,
    limits: Limits,
    counts: Arc<ListenerCounts>,
) -> impl Stream<Item = io::Result<TimedStream>> {
    let acceptor = Acceptor {
        connections: Connections::new(limits, counts),
        last_warning: None,
    };
    unfold(
        (listener, acceptor),
        |(listener, mut acceptor)| async move {
            let connection = acceptor.next(|| listener.accept()).await;
            Some((Ok(connection), (listener, acceptor)))
        },
    )
}

struct Acceptor {
    connections: Connections,
    /// Time of the last log line about a refused connection.
    last_warning: Option<Instant>,
}

impl Acceptor {
    async fn next<F>(&mut self, accept: impl Fn() -> F) -> TimedStream
    where
        F: Future<Output = io::Result<(TcpStream, SocketAddr)>>,
    {
        // Set while no descriptor is free, so that each shortage is one line in the log.
        let mut waiting = false;
        loop {
            let (stream, peer) = match accept().await {
                Ok(accepted) => accepted,
                // The next connection may already wait, so there is no pause.
                Err(error) if is_over(&error) => continue,
                Err(error) => {
                    self.connections.counts.not_accepted.add(1);
                    if !std::mem::replace(&mut waiting, true) {
                        let open = self.connections.counts.connections();
                        tracing::warn!(%error, open, "cannot accept connections: raise the limit of open files");
                    }
                    // Without the pause the loop would spin: a failed accept leaves the connection
                    // in the queue.
                    tokio::time::sleep(BACK_OFF).await;
                    continue;
                }
            };
            if std::mem::take(&mut waiting) {
                tracing::info!("connections are accepted again");
            }
            match self.connections.admit(peer.ip()) {
                Ok(permit) => {
                    // A small answer is sent without waiting for another one; on failure it is only
                    // slower.
                    let _ = stream.set_nodelay(true);
                    return TimedStream::new(stream, permit);
                }
                Err(refusal) => self.refuse(refusal, peer),
            }
        }
    }

    /// The drop closes the connection, so the client sees at once that it has to use another
    /// server.
    fn refuse(&mut self, refusal: Refusal, peer: SocketAddr) {
        self.connections.counts.refused(refusal);
        // At a limit every further client is refused, which must not fill the log.
        if self
            .last_warning
            .is_none_or(|at| at.elapsed() >= WARN_EVERY)
        {
            self.last_warning = Some(Instant::now());
            let Limits { all, one_address } = self.connections.limits;
            let reason = refusal.as_str();
            tracing::warn!(%peer, reason, all, one_address, "connections are refused: their number is at the limit");
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn accept_without_free_descriptors_retries_ten_times_a_second() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let limits = Limits {
            all: 3,
            one_address: 2,
        };
        let mut acceptor = Acceptor {
            connections: Connections::new(limits, Arc::default()),
            last_warning: None,
        };
        let (tries, started) = (AtomicUsize::new(0), tokio::time::Instant::now());
        let (tries, listener) = (&tries, &listener);
        let accept = || async move {
            match tries.fetch_add(1, Relaxed) {
                0 => Err(io::ErrorKind::ConnectionAborted.into()),
                1..=100 => Err(rustix::io::Errno::MFILE.into()),
                _ => listener.accept().await,
            }
        };
        let _connection = acceptor.next(accept).await;
        assert!(
            started.elapsed() >= BACK_OFF * 100,
            "{:?}",
            started.elapsed()
        );
        let counts = &acceptor.connections.counts;
        assert_eq!((counts.not_accepted.get(), counts.connections()), (100, 1));
    }
}
