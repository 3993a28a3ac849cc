//! Connections: too many of them, too few file descriptors, and clients that abuse HTTP/2. The
//! servers are real processes, since all these limits belong to a process.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

use crate::support::{
    TestDb,
    process::ServerProcess,
    server::{PATIENCE, TestServer, eventually},
};

/// A connection of HTTP/1.1 that stays open.
struct Kept(TcpStream);

impl Kept {
    /// From this address of the loopback.
    async fn open(server: &str, from: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        Self(
            socket
                .connect(server.parse::<SocketAddr>().unwrap())
                .await
                .unwrap(),
        )
    }

    /// The body of the answer; `None` if the server closes the connection or answers later than
    /// that.
    async fn get(&mut self, path: &str, patience: Duration) -> Option<String> {
        self.0
            .write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
            .await
            .ok()?;
        tokio::time::timeout(patience, self.answer()).await.ok()?
    }

    async fn answer(&mut self) -> Option<String> {
        let mut bytes = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "))?
                    .parse::<usize>()
                    .ok()?;
                if body.len() >= length {
                    return Some(body.to_owned());
                }
            }
            if self.0.read_buf(&mut bytes).await.ok()? == 0 {
                return None;
            }
        }
    }

    async fn metric(&mut self, name: &str) -> f64 {
        let page = self
            .get("/metrics", PATIENCE)
            .await
            .expect("an open connection works");
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
    }
}

fn pid(server: &ServerProcess) -> Pid {
    Pid::from_raw(server.pid()).unwrap()
}

/// Processor time that the process has used.
fn processor_time(server: &ServerProcess) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    Duration::from_millis(ticks * 10)
}

#[tokio::test]
async fn server_without_file_descriptors_keeps_serving() {
    let db = TestDb::new().await;
    let server = ServerProcess::start(db.url());
    let mut kept = Kept::open(server.address(), "127.0.0.1").await;
    // The request also opens the server's database connection for this page.
    assert!(kept.metric("tasker_connections_open").await >= 1.0);
    let soft = getrlimit_of(&server);
    assert_eq!(
        soft.current, soft.maximum,
        "the server takes as many descriptors as it may have"
    );
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid()))
        .unwrap()
        .count();
    let few = Rlimit {
        current: Some(u64::try_from(open).unwrap() + 5),
        maximum: soft.maximum,
    };
    prlimit(Some(pid(&server)), Resource::Nofile, few).unwrap();
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(Kept::open(server.address(), "127.0.0.1").await);
    }
    let mut failed = 0.0;
    for _ in 0..200 {
        failed = kept.metric("tasker_connections_not_accepted_total").await;
        if failed > 0.0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(failed > 0.0, "descriptors are not used up");
    let (before, started) = (processor_time(&server), Instant::now());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let busy = (processor_time(&server) - before).as_secs_f64() / started.elapsed().as_secs_f64();
    assert!(
        busy < 0.5,
        "{busy} of a core while it waits for descriptors"
    );
    assert!(kept.get("/livez", PATIENCE).await.is_some());
    drop(others);
    let answer = eventually("a new connection", || async {
        Kept::open(server.address(), "127.0.0.1")
            .await
            .get("/livez", Duration::from_secs(1))
            .await
    });
    assert_eq!(answer.await, "ok\n");
    let said = server
        .log()
        .iter()
        .filter(|line| line.contains("cannot accept connections"))
        .count();
    assert!((1..=3).contains(&said), "{:?}", server.log());
}

fn getrlimit_of(server: &ServerProcess) -> Rlimit {
    let text = std::fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let line = text
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let numbers: Vec<Option<u64>> = line
        .split_whitespace()
        .skip(3)
        .take(2)
        .map(|n| n.parse().ok())
        .collect();
    Rlimit {
        current: numbers[0],
        maximum: numbers[1],
    }
}

#[tokio::test]
async fn connections_are_limited_in_all_and_per_address() {
    const ALL: usize = 48;
    const ONE_ADDRESS: usize = 36;
    let db = TestDb::new().await;
    let server = ServerProcess::start_with_files(db.url(), 2 * ALL);
    let mut kept = Vec::new();
    for _ in 0..ONE_ADDRESS {
        let mut connection = Kept::open(server.address(), "127.0.0.1").await;
        assert!(
            connection.get("/livez", PATIENCE).await.is_some(),
            "{} connections",
            kept.len()
        );
        kept.push(connection);
    }
    assert_eq!(
        Kept::open(server.address(), "127.0.0.1")
            .await
            .get("/livez", PATIENCE)
            .await,
        None
    );
    for _ in ONE_ADDRESS..ALL {
        let mut connection = Kept::open(server.address(), "127.0.0.2").await;
        assert!(
            connection.get("/livez", PATIENCE).await.is_some(),
            "{} connections",
            kept.len()
        );
        kept.push(connection);
    }
    assert_eq!(
        Kept::open(server.address(), "127.0.0.3")
            .await
            .get("/livez", PATIENCE)
            .await,
        None
    );
    let first = &mut kept[0];
    assert_eq!(first.metric("tasker_connections_open").await, 48.0);
    assert_eq!(
        first.metric(r#"tasker_refused_total{reason="peer"}"#).await,
        1.0
    );
    assert_eq!(
        first
            .metric(r#"tasker_refused_total{reason="connections"}"#)
            .await,
        1.0
    );
    kept.truncate(10);
    let answer = eventually("a new connection", || async {
        Kept::open(server.address(), "127.0.0.3")
            .await
            .get("/livez", Duration::from_secs(1))
            .await
    });
    assert_eq!(answer.await, "ok\n");
    let said = server
        .log()
        .iter()
        .filter(|line| line.contains("connections are refused"))
        .count();
    assert_eq!(said, 1, "{:?}", server.log());
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const SETTINGS: u8 = 4;
const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[tokio::test]
async fn http_2_connection_is_bounded() {
    let db = TestDb::new().await;
    let server = TestServer::start(&db).await;
    let address = server.url.trim_start_matches("http://");
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket
        .write_all(&[OPENING, &frame(SETTINGS, 0, 0, &[])].concat())
        .await
        .unwrap();
    let mut header = [0; 9];
    socket.read_exact(&mut header).await.unwrap();
    assert_eq!(header[3], SETTINGS);
    let mut settings = vec![0; usize::from(header[1]) << 8 | usize::from(header[2])];
    socket.read_exact(&mut settings).await.unwrap();
    let of = |id: u16| {
        let found = settings.chunks(6).find(|one| one[..2] == id.to_be_bytes());
        found.map(|one| u32::from_be_bytes(one[2..].try_into().unwrap()))
    };
    // Concurrent streams (3), bytes of headers (6), and the initial window of a stream (4).
    assert_eq!(
        (of(3), of(6), of(4)),
        (Some(4_096), Some(16_384), Some(1 << 20))
    );
    // Calls that are cancelled at once, again and again: GET / of localhost.
    let headers = [&[0x82, 0x84, 0x86, 0x41, 9][..], b"localhost"].concat();
    let mut attack = Vec::new();
    for n in 0..20_000 {
        let stream = 2 * n + 1;
        attack.extend(frame(1, 5, stream, &headers));
        attack.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
    }
    // The server may close before it has read all frames.
    let _ = socket.write_all(&attack).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer))
        .await
        .expect("it is closed");
    let mut other = Kept::open(address, "127.0.0.1").await;
    assert_eq!(other.get("/livez", PATIENCE).await.as_deref(), Some("ok\n"));
}
