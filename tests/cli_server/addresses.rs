//! The addresses on which a server listens, and a client's errors for an address without one.

use std::{net::SocketAddr, process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};

use super::{
    run, server,
    support::{TestDb, server::PATIENCE},
    tasker,
};

async fn list(url: &str) -> super::Ended {
    run(tasker(["worker", "list", "--server", url])).await
}

#[tokio::test]
async fn server_listens_on_localhost_or_every_address() {
    let db = TestDb::new().await;
    for (listen, printed) in [
        ("localhost:0", &["http://127.0.0.1:"][..]),
        (":0", &["http://[::]:", "http://0.0.0.0:"]),
    ] {
        let mut command = server(db.url(), &[]);
        // The helper sets `--listen` itself, so the test builds a command of its own.
        command = {
            let mut own = tasker(["server", "--listen", listen, "--log", "error"]);
            own.env("TASKER_DATABASE_URL", db.url());
            drop(command);
            own
        };
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        tokio::time::timeout(PATIENCE, stdout.read_line(&mut line))
            .await
            .expect("it does not listen")
            .unwrap();
        assert!(
            printed.iter().any(|start| line.starts_with(start)),
            "{listen}: {line}"
        );
        let port = line.trim().rsplit(':').next().unwrap();
        assert_eq!(
            list(&format!("127.0.0.1:{port}")).await.code,
            Some(0),
            "{listen}"
        );
        child.kill().await.unwrap();
    }
}

/// A peer that is not Tasker: it answers any request with these bytes, and closes.
async fn stranger(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 512];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn peer_that_is_not_tasker_is_identified_with_a_hint() {
    const HTTP: &[u8] =
        b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    const HTTPS: &[u8] =
        b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    for (answer, says, next) in [
        (
            HTTP,
            "supports HTTP/1 only, so it is not a Tasker server: it answers `HTTP/1.1 400 Bad Request`",
            "forward HTTP/2",
        ),
        (
            b"\x15\x03\x01\0\x02\x02\x46",
            "expects TLS, which this client does not support",
            "plain port",
        ),
        (
            HTTPS,
            "expects TLS, which this client does not support",
            "plain port",
        ),
        (
            b"SSH-2.0-OpenSSH_9.2\r\n",
            "does not use HTTP, so it is not a Tasker server: it answers `SSH-2.0-",
            "--server",
        ),
        (
            b"",
            "closes the connection without an answer, so it is not a Tasker server",
            "--server",
        ),
    ] {
        let url = format!("http://{}", stranger(answer).await);
        let said = list(&url).await.failed(69);
        assert!(
            said.starts_with(&format!("error: cannot list the workers: {url} {says}")),
            "{said}"
        );
        assert!(
            said.lines()
                .last()
                .is_some_and(|line| line.starts_with("hint: ") && line.contains(next)),
            "{said}"
        );
    }
}

#[tokio::test]
async fn silent_peer_is_reported_after_the_time_limit() {
    // It accepts connections, and never reads or answers.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut command = tasker(["worker", "list", "--server", url.as_str()]);
    let ended = tokio::time::timeout(Duration::from_secs(60), command.output()).await;
    let ended = ended.expect("the command ends by itself").unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(69), "{said}");
    assert!(
        said.contains(&format!("{url} accepts connections and sends no answer"))
            && said
                .lines()
                .any(|line| line.starts_with("hint: set --server")),
        "{said}"
    );
}

#[tokio::test]
async fn unreachable_addresses_are_distinguished() {
    let free = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let said = list(&free.to_string()).await.failed(69);
    assert!(
        said.contains("Connection refused") && said.contains("hint: start one with `tasker dev`"),
        "{said}"
    );
    let said = list("http://no-such-host.invalid:7233").await.failed(69);
    assert!(
        said.contains("hint: check the name of the host in --server"),
        "{said}"
    );
    let said = list("https://127.0.0.1:7233").await.failed(64);
    assert!(
        said.contains("this client does not support TLS") && said.contains("hint: set --server"),
        "{said}"
    );
}
