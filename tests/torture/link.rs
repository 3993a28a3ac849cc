//! A network that breaks: a TCP proxy that delays, blocks, cuts, half-closes and resets
//! connections.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt as _,
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{broadcast, watch},
};

/// The behaviour of the link until the next change of mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Every chunk is delayed by this time.
    Delay(Duration),
    /// No byte passes, and neither side is notified.
    Hold,
    /// New connections are closed at once.
    Refuse,
}

/// A fault of the connections that are open now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blow {
    /// Closed on both sides.
    Cut,
    /// Closed with RST.
    Reset,
    /// The direction to the target ends; the way back stays open.
    CloseUp,
    /// The direction back to the client ends.
    CloseDown,
}

/// A listener that forwards to one address.
pub struct Link {
    pub address: SocketAddr,
    shared: Shared,
}

#[derive(Clone)]
struct Shared {
    mode: watch::Sender<Mode>,
    blows: broadcast::Sender<Blow>,
    /// The commit of Postgres whose answer is lost, counted from now; 0 for none.
    doomed_commit: Arc<AtomicUsize>,
}

impl Link {
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared {
            mode: watch::Sender::new(Mode::Pass),
            blows: broadcast::Sender::new(16),
            doomed_commit: Arc::default(),
        };
        tokio::spawn(accept(listener, port, shared.clone()));
        Self { address, shared }
    }

    pub fn set(&self, mode: Mode) {
        self.shared.mode.send_replace(mode);
    }

    pub fn strike(&self, blow: Blow) {
        let _ = self.shared.blows.send(blow);
    }

    /// Breaks the connection on which the `n`th commit from now succeeds, instead of forwarding its
    /// answer.
    pub fn lose_commit(&self, n: usize) {
        self.shared.doomed_commit.store(n, Ordering::SeqCst);
    }

    /// Whether the commit's answer was lost.
    pub fn has_lost_it(&self) -> bool {
        self.shared.doomed_commit.load(Ordering::SeqCst) == 0
    }
}

async fn accept(listener: TcpListener, port: u16, shared: Shared) {
    loop {
        // `accept` fails when the process is out of file descriptors, for example; the next call
        // may succeed.
        let Ok((client, _)) = listener.accept().await else {
            continue;
        };
        if *shared.mode.borrow() == Mode::Refuse {
            continue;
        }
        let shared = shared.clone();
        tokio::spawn(async move {
            let Ok(target) = TcpStream::connect(("127.0.0.1", port)).await else {
                return;
            };
            let _ = (client.set_nodelay(true), target.set_nodelay(true));
            serve(client, target, &shared).await;
        });
    }
}

type Way<'a> = Pin<Box<dyn Future<Output = Fate> + Send + 'a>>;

/// The end of one direction.
enum Fate {
    Ended,
    /// The whole connection has to be closed.
    Lost,
}

async fn serve(client: TcpStream, target: TcpStream, shared: &Shared) {
    let mut blows = shared.blows.subscribe();
    let reset = Arc::<AtomicBool>::default();
    let (from_client, to_client) = client.into_split();
    let (from_target, to_target) = target.into_split();
    let to = |half| Writing {
        half: Some(half),
        reset: Arc::clone(&reset),
    };
    let (to_client, to_target) = (to(to_client), to(to_target));
    let mut up: Option<Way<'_>> = Some(Box::pin(pump(&from_client, to_target, shared, false)));
    let mut down: Option<Way<'_>> = Some(Box::pin(pump(&from_target, to_client, shared, true)));
    while up.is_some() || down.is_some() {
        let blow = tokio::select! {
            fate = way(&mut up) => {
                if matches!(fate, Fate::Lost) { Some(Blow::Cut) } else { up = None; None }
            }
            fate = way(&mut down) => {
                if matches!(fate, Fate::Lost) { Some(Blow::Cut) } else { down = None; None }
            }
            blow = blows.recv() => Some(blow.unwrap_or(Blow::Cut)),
        };
        match blow {
            None => {}
            Some(Blow::CloseUp) => up = None,
            Some(Blow::CloseDown) => down = None,
            Some(Blow::Cut) => return,
            Some(Blow::Reset) => {
                reset.store(true, Ordering::Relaxed);
                let _ = (
                    from_client.as_ref().set_zero_linger(),
                    from_target.as_ref().set_zero_linger(),
                );
                return;
            }
        }
    }
}

/// One side of a socket. Dropping a half sends FIN, which a reset must not do.
struct Writing {
    half: Option<OwnedWriteHalf>,
    reset: Arc<AtomicBool>,
}

impl Drop for Writing {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Relaxed) {
            self.half
                .take()
                .into_iter()
                .for_each(OwnedWriteHalf::forget);
        }
    }
}

async fn way(way: &mut Option<Way<'_>>) -> Fate {
    match way {
        Some(way) => way.await,
        None => std::future::pending().await,
    }
}

/// Forwards one direction. Dropping it shuts that direction down.
async fn pump(from: &OwnedReadHalf, mut to: Writing, shared: &Shared, is_down: bool) -> Fate {
    let mut mode = shared.mode.subscribe();
    let mut buffer = vec![0; 1 << 15];
    loop {
        let n = match from
            .readable()
            .await
            .and_then(|()| from.try_read(&mut buffer))
        {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Ok(0) | Err(_) => return Fate::Ended,
            Ok(n) => n,
        };
        let now = *mode.borrow_and_update();
        match now {
            Mode::Pass | Mode::Refuse => {}
            Mode::Delay(time) => tokio::time::sleep(time).await,
            Mode::Hold => {
                let _ = mode.wait_for(|mode| *mode != Mode::Hold).await;
            }
        }
        if is_down && commits_doomed(&buffer[..n], &shared.doomed_commit) {
            return Fate::Lost;
        }
        let Some(half) = &mut to.half else {
            return Fate::Ended;
        };
        if half.write_all(&buffer[..n]).await.is_err() {
            return Fate::Ended;
        }
    }
}

/// Counts the confirmed commits in Postgres's output; true when the doomed one is among them. A
/// commit that is split over two reads is missed, and the next one takes its place.
fn commits_doomed(bytes: &[u8], doomed: &AtomicUsize) -> bool {
    if doomed.load(Ordering::Relaxed) == 0 {
        return false;
    }
    let commits = bytes
        .windows(12)
        .filter(|w| w == b"C\0\0\0\x0bCOMMIT\0")
        .count();
    (0..commits).any(|_| {
        doomed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)) == Ok(1)
    })
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    /// A connection through a link to an echo server.
    async fn echo() -> (Link, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        let link = Link::to(port).await;
        let mut stream = TcpStream::connect(link.address).await.unwrap();
        said(&mut stream).await.unwrap();
        (link, stream)
    }

    /// Sends some bytes and waits for the echo.
    async fn said(stream: &mut TcpStream) -> Result<(), String> {
        let fail = |e: std::io::Error| e.kind().to_string();
        stream.write_all(b"hello").await.map_err(fail)?;
        let mut answer = [0; 5];
        let read = tokio::time::timeout(Duration::from_millis(300), stream.read_exact(&mut answer));
        read.await
            .map_err(|_| "silence".to_owned())?
            .map(|_| ())
            .map_err(fail)
    }

    #[tokio::test]
    async fn link_pauses_and_resumes() {
        let (link, mut stream) = echo().await;
        link.set(Mode::Hold);
        assert_eq!(said(&mut stream).await, Err("silence".into()));
        link.set(Mode::Pass);
        let mut held = [0; 5];
        stream.read_exact(&mut held).await.unwrap();
        said(&mut stream).await.unwrap();
        link.set(Mode::Delay(Duration::from_millis(50)));
        let asked = std::time::Instant::now();
        said(&mut stream).await.unwrap();
        assert!(asked.elapsed() >= Duration::from_millis(100));
    }

    #[tokio::test]
    async fn link_breaks_in_each_mode() {
        let (link, mut stream) = echo().await;
        link.strike(Blow::Reset);
        assert_eq!(said(&mut stream).await, Err("connection reset".into()));
        for blow in [Blow::Cut, Blow::CloseUp, Blow::CloseDown] {
            let (link, mut stream) = echo().await;
            link.strike(blow);
            let mut rest = Vec::new();
            tokio::time::timeout(Duration::from_secs(1), stream.read_to_end(&mut rest))
                .await
                .unwrap()
                .unwrap();
            assert!(rest.is_empty());
        }
        link.set(Mode::Refuse);
        let mut refused = TcpStream::connect(link.address).await.unwrap();
        assert!(said(&mut refused).await.is_err());
    }

    #[test]
    fn link_cuts_at_the_chosen_commit() {
        let doomed = AtomicUsize::new(2);
        let commit = b"xxC\0\0\0\x0bCOMMIT\0Z\0\0\0\x05I";
        assert!(!commits_doomed(commit, &doomed));
        assert!(!commits_doomed(b"C\0\0\0\x0aBEGIN\0", &doomed));
        assert!(commits_doomed(commit, &doomed));
        assert!(!commits_doomed(commit, &doomed));
    }
}
