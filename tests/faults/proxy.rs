//! A TCP proxy to Postgres that breaks at the worst moment: after a commit, before its answer; or
//! for one server alone.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// The state of the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Open,
    /// Connections stay open, and no byte passes, as behind a firewall that drops packets.
    Silent,
    /// Existing connections are closed, and new ones are closed at once.
    Broken,
}

/// A listener that forwards both ways.
pub struct Proxy {
    pub url: String,
    armed: Arc<AtomicUsize>,
    way: watch::Sender<Way>,
}

impl Proxy {
    /// In front of the database of this URL.
    pub async fn start(url: &str) -> Self {
        let (head, rest) = url.split_once("127.0.0.1:").unwrap();
        let (port, database) = rest.split_once('/').unwrap();
        let port: u16 = port.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!(
            "{head}127.0.0.1:{}/{database}",
            listener.local_addr().unwrap().port()
        );
        let (armed, way) = (Arc::<AtomicUsize>::default(), watch::Sender::new(Way::Open));
        tokio::spawn(accept(listener, port, Arc::clone(&armed), way.subscribe()));
        Self { url, armed, way }
    }

    /// Breaks the connection on which the `n`th commit from now succeeds, instead of forwarding its
    /// answer.
    pub fn swallow_commit(&self, n: usize) {
        self.armed.store(n, Ordering::SeqCst);
    }

    /// Whether the commit's answer was lost.
    pub fn has_swallowed(&self) -> bool {
        self.armed.load(Ordering::SeqCst) == 0
    }

    /// Changes the state.
    pub fn is(&self, way: Way) {
        self.way.send_replace(way);
    }
}

async fn accept(
    listener: TcpListener,
    port: u16,
    armed: Arc<AtomicUsize>,
    way: watch::Receiver<Way>,
) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        if *way.borrow() == Way::Broken {
            continue;
        }
        let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        let (armed, mut broken) = (Arc::clone(&armed), way.clone());
        let passing = [
            tokio::spawn(pass(from_client, to_server, Arc::default(), way.clone())),
            tokio::spawn(pass(from_server, to_client, armed, way.clone())),
        ];
        tokio::spawn(async move {
            let [mut up, mut down] = passing;
            tokio::select! {
                _ = broken.wait_for(|way| *way == Way::Broken) => {}
                _ = &mut up => {}
                _ = &mut down => {}
            }
            up.abort();
            down.abort();
        });
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    armed: Arc<AtomicUsize>,
    mut way: watch::Receiver<Way>,
) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        let _ = way.wait_for(|way| *way != Way::Silent).await;
        // CommandComplete of a commit. A commit that is split over two reads is missed, and the
        // test waits for the next.
        let commits = buffer[..n]
            .windows(12)
            .filter(|w| w == b"C\0\0\0\x0bCOMMIT\0")
            .count();
        for _ in 0..commits {
            let counted =
                armed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            if counted == Ok(1) {
                return;
            }
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}
