//! A way to Postgres that can break at the worst moment: after a commit, before its answer.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// A listener that passes everything on, both ways.
pub struct Proxy {
    pub url: String,
    armed: Arc<AtomicUsize>,
}

impl Proxy {
    /// In front of the database of this URL.
    pub async fn start(url: &str) -> Self {
        let (head, rest) = url.split_once("127.0.0.1:").unwrap();
        let (port, database) = rest.split_once('/').unwrap();
        let port: u16 = port.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{head}127.0.0.1:{}/{database}", listener.local_addr().unwrap().port());
        let armed = Arc::<AtomicUsize>::default();
        tokio::spawn(accept(listener, port, Arc::clone(&armed)));
        Self { url, armed }
    }

    /// Breaks the connection on which the `n`th commit from now succeeds, instead of passing that on.
    pub fn swallow_commit(&self, n: usize) {
        self.armed.store(n, Ordering::SeqCst);
    }

    /// Whether that has happened.
    pub fn has_swallowed(&self) -> bool {
        self.armed.load(Ordering::SeqCst) == 0
    }
}

async fn accept(listener: TcpListener, port: u16, armed: Arc<AtomicUsize>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        let (mut from_client, to_client) = client.into_split();
        let (from_server, mut to_server) = server.into_split();
        let up = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
        let armed = Arc::clone(&armed);
        tokio::spawn(async move {
            down(from_server, to_client, &armed).await;
            up.abort();
        });
    }
}

async fn down(mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf, armed: &AtomicUsize) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(n @ 1..) = from.read(&mut buffer).await {
        // CommandComplete of a commit. One that is split over two reads is missed, and the test waits for the next.
        let commits = buffer[..n].windows(12).filter(|w| w == b"C\0\0\0\x0bCOMMIT\0").count();
        for _ in 0..commits {
            let counted = armed.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            if counted == Ok(1) {
                return;
            }
        }
        if to.write_all(&buffer[..n]).await.is_err() {
            return;
        }
    }
}
