//! HTTP that is not gRPC, at the port that serves gRPC.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::target::Target;

/// Sends bytes and reads until the server closes the connection.
async fn send(target: &Target, bytes: &[u8]) -> String {
    let address = target.bench.server.url.trim_start_matches("http://");
    let mut socket = TcpStream::connect(address).await.unwrap();
    // A server that has read enough may close before all bytes are written.
    let _ = socket.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = socket.read_to_end(&mut answer);
    let _ = tokio::time::timeout(std::time::Duration::from_secs(5), read)
        .await
        .unwrap_or_else(|_| panic!("kept: {:.100?}", String::from_utf8_lossy(bytes)));
    String::from_utf8_lossy(&answer).into_owned()
}

fn request(method: &str, path: &str, more: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{more}\r\n")
}

const JSON: &str = "Content-Type: application/json\r\nContent-Length: 2\r\n";

/// A request, the beginning of its status line, and a part of its answer.
fn requests_of_rpcs() -> Vec<(String, &'static str, &'static str)> {
    let rpc = "/tasker.v1.TaskService/GetTask";
    let grpc = "Content-Type: application/grpc\r\nContent-Length: 5\r\n";
    vec![
        (request("GET", rpc, ""), "HTTP/1.1 415", "send gRPC"),
        (
            request("POST", rpc, JSON) + "{}",
            "HTTP/1.1 415",
            "send gRPC",
        ),
        (
            request("POST", rpc, "Content-Length: 0\r\n"),
            "HTTP/1.1 415",
            "send gRPC",
        ),
        (
            request("PUT", rpc, JSON) + "{}",
            "HTTP/1.1 415",
            "send gRPC",
        ),
        (
            request("DELETE", "/tasker.v1.TaskService/Nothing", ""),
            "HTTP/1.1 415",
            "send gRPC",
        ),
        (
            request("POST", rpc, grpc) + "\0\0\0\0\0",
            "HTTP/1.1 505",
            "HTTP/2",
        ),
        (
            request("POST", "/tasker.v1.WorkerService/Work", grpc) + "\0\0\0\0\0",
            "HTTP/1.1 505",
            "HTTP/2",
        ),
    ]
}

fn requests_of_pages() -> Vec<(String, &'static str, &'static str)> {
    vec![
        (
            request("GET", "/", ""),
            "HTTP/1.1 404",
            "this port serves gRPC",
        ),
        (
            request("GET", "/metrics/../../etc/passwd", ""),
            "HTTP/1.1 404",
            "this port serves gRPC",
        ),
        (
            request("POST", "/tasker.v1.NoService/GetTask", JSON) + "{}",
            "HTTP/1.1 404",
            "this port serves gRPC",
        ),
        (request("GET", "/livez", ""), "HTTP/1.1 200", "ok"),
        (request("GET", "/readyz", ""), "HTTP/1.1 200", "ok"),
        (request("POST", "/livez", JSON) + "{}", "HTTP/1.1 405", ""),
        (
            "GET / HTTP/1.1\r\nConnection: close\r\n\r\n".into(),
            "HTTP/1.1 4",
            "",
        ),
        ("hello\r\n\r\n".into(), "HTTP/1.1 400", ""),
        (
            "GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n".into(),
            "HTTP/1.1 400",
            "",
        ),
        (
            format!(
                "GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n",
                "y".repeat(1 << 20)
            ),
            "HTTP/1.1 431",
            "",
        ),
    ]
}

#[tokio::test]
async fn malformed_http_1_requests_are_refused() {
    let mut target = Target::new().await;
    for (request, status, says) in requests_of_rpcs().into_iter().chain(requests_of_pages()) {
        let answer = send(&target, request.as_bytes()).await;
        let right = answer.starts_with(status) && answer.contains(says);
        target.note(
            right,
            format!("{request:.100?}: expected {status} with `{says}`, got {answer:.300?}"),
        );
    }
    // The server closes a connection that does not speak HTTP.
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnonsense nonsense",
    ] {
        let answer = send(&target, &[bytes, &[0xff; 64]].concat()).await;
        target.note(!answer.contains("200 OK"), answer);
    }
    target.end(19).await;
}
