//! A web page must not command the server through a user's browser: neither by a host name of its
//! own that resolves to this machine, nor by requests that browsers send without a preflight. Each
//! case is bytes on a socket, over HTTP/1.1 and HTTP/2.

use prost::Message as _;
use tasker::{
    proto::{self, TaskState},
    server::ServerConfig,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{
    body::Body,
    codegen::Service as _,
    transport::{Channel, Uri},
};

use crate::{
    site::CHAIN,
    support::{
        TestDb,
        server::{Bench, PATIENCE, TestServer, get, register, state, submit},
    },
};

const CANCEL: &str = "/tasker.v1.TaskService/CancelTask";

/// A server that is also `tasker.example.com`, and accepts calls from pages of
/// `https://ops.example.com`.
async fn named() -> Bench {
    let db = TestDb::new().await;
    let config = ServerConfig {
        cors_origins: vec!["https://ops.example.com".parse().unwrap()],
        allowed_hosts: vec![
            "tasker.example.com".parse().unwrap(),
            "*.corp.example.com".parse().unwrap(),
        ],
        ..Default::default()
    };
    let server = TestServer::start_with(&db, config).await;
    let mut client = server.client().await;
    register(&mut client, CHAIN).await;
    Bench { db, server, client }
}

/// The server's answer to these bytes of HTTP/1.
async fn send(bench: &Bench, request: String) -> String {
    let mut socket = TcpStream::connect(bench.server.url.trim_start_matches("http://"))
        .await
        .unwrap();
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer))
        .await
        .expect("an answer")
        .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn request(method: &str, path: &str, headers: &[&str], body: &str) -> String {
    let mut text = format!(
        "{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n",
        body.len()
    );
    for header in headers {
        text += &format!("{header}\r\n");
    }
    text + "\r\n" + body
}

/// The HTTP status over HTTP/2, with this `:authority`.
async fn over_http_2(
    bench: &Bench,
    authority: &str,
    request: http::request::Builder,
    body: Vec<u8>,
) -> (u16, String) {
    let origin: Uri = format!("http://{authority}").parse().unwrap();
    let channel = Channel::from_shared(bench.server.url.clone())
        .unwrap()
        .origin(origin);
    let mut channel = channel.connect().await.unwrap();
    std::future::poll_fn(|context| channel.poll_ready(context))
        .await
        .unwrap();
    let body = Body::new(axum::body::Body::from(body));
    let response = tokio::time::timeout(PATIENCE, channel.call(request.body(body).unwrap()))
        .await
        .unwrap()
        .unwrap();
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(axum::body::Body::new(response.into_body()), 1 << 20)
        .await
        .unwrap();
    (status, String::from_utf8_lossy(&body).into_owned())
}

fn framed(task_id: &str) -> Vec<u8> {
    let request = proto::CancelTaskRequest {
        task_id: task_id.into(),
        by: "page".into(),
        reason: "because".into(),
    };
    let bytes = request.encode_to_vec();
    [
        &[0],
        &u32::try_from(bytes.len()).unwrap().to_be_bytes()[..],
        &bytes,
    ]
    .concat()
}

#[tokio::test]
async fn foreign_host_is_refused_except_on_native_grpc() {
    let bench = named().await;
    for path in [
        "/livez",
        "/readyz",
        "/metrics",
        "/tasker/openapi.json",
        "/tasker/tasks",
        "/tasker/events",
        "/nowhere",
    ] {
        let answer = send(
            &bench,
            request("GET", path, &["Host: rebound.evil.example:7233"], ""),
        )
        .await;
        assert!(
            answer.starts_with("HTTP/1.1 403 ") && answer.contains("HOST_NOT_ALLOWED"),
            "{path}: {answer}"
        );
        assert!(
            answer.contains("application/problem+json")
                && answer.contains("--allowed-host rebound.evil.example")
        );
    }
    for (method, path, media) in [
        ("OPTIONS", "/tasker/tasks", "text/plain"),
        ("HEAD", "/livez", "text/plain"),
        ("POST", CANCEL, "application/grpc-web+proto"),
        ("POST", CANCEL, "application/grpc"),
        (
            "POST",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            "application/grpc-web-text",
        ),
    ] {
        let headers = ["Host: evil.example", &format!("Content-Type: {media}")];
        let answer = send(&bench, request(method, path, &headers, "")).await;
        assert!(
            answer.starts_with("HTTP/1.1 403 "),
            "{method} {path} {media}: {answer}"
        );
    }
    for host in [
        "127.0.0.1",
        "[::1]:7233",
        "localhost:7233",
        "server:7233",
        "tasker.example.com",
        "a.corp.example.com",
    ] {
        let answer = send(
            &bench,
            request("GET", "/livez", &[&format!("Host: {host}")], ""),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{host}: {answer}");
    }
}

#[tokio::test]
async fn request_without_exactly_one_host_is_refused() {
    let bench = named().await;
    for (text, code) in [
        ("GET /livez HTTP/1.0\r\n\r\n".to_owned(), "HOST_MISSING"),
        (request("GET", "/livez", &["Host:"], ""), "HOST_UNREADABLE"),
        (
            request(
                "GET",
                "/livez",
                &["Host: localhost", "Host: evil.example"],
                "",
            ),
            "HOST_AMBIGUOUS",
        ),
        (
            request("GET", "http://localhost/livez", &["Host: evil.example"], ""),
            "HOST_AMBIGUOUS",
        ),
    ] {
        let answer = send(&bench, text.clone()).await;
        assert!(
            answer.contains(" 400 ") && answer.contains(code),
            "{text}: {answer}"
        );
    }
    let answer = send(
        &bench,
        request(
            "GET",
            "http://evil.example/livez",
            &["Host: evil.example"],
            "",
        ),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
}

/// The headers that browsers send with a request of a page that may not call.
const FOREIGN: &[&[&str]] = &[
    &["Origin: https://evil.example"],
    &["Origin: null"],
    &["Origin: http://127.0.0.1:1"],
    &[
        "Origin: https://evil.example",
        "Content-Type: application/json",
    ],
    &["Sec-Fetch-Site: cross-site"],
    &[
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Mode: navigate",
        "Sec-Fetch-Dest: document",
    ],
    &[
        "Origin: https://ops.example.com.evil.example",
        "Sec-Fetch-Site: cross-site",
    ],
    &[
        "Origin: https://ops.example.com",
        "Origin: https://evil.example",
    ],
];

#[tokio::test]
async fn foreign_page_cannot_cancel_a_task() {
    let mut bench = named().await;
    let id = submit(&mut bench.client, "t/chain", "{}").await;
    let path = format!("/tasker/tasks/{id}/cancel");
    for headers in FOREIGN {
        let headers = [&["Host: localhost:7233"], *headers].concat();
        let answer = send(&bench, request("POST", &path, &headers, "")).await;
        assert!(
            answer.starts_with("HTTP/1.1 403 ") && answer.contains("--cors-origin"),
            "{headers:?}: {answer}"
        );
    }
    // Requests of an old browser's form, which have no origin.
    for media in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    ] {
        let headers = ["Host: localhost:7233", &format!("Content-Type: {media}")];
        for body in ["", r#"{"reason":"="}"#] {
            let answer = send(&bench, request("POST", &path, &headers, body)).await;
            assert!(answer.starts_with("HTTP/1.1 415 "), "{media}: {answer}");
        }
    }
    let web = [
        "Host: localhost:7233",
        "Origin: https://evil.example",
        "Content-Type: application/grpc-web+proto",
    ];
    let body = String::from_utf8(framed(&id)).unwrap();
    assert!(
        send(&bench, request("POST", CANCEL, &web, &body))
            .await
            .starts_with("HTTP/1.1 403 ")
    );
    assert_eq!(
        state(&get(&mut bench.client, &id).await),
        TaskState::Pending
    );
    // A page that may call, and one of the server's own.
    let own = format!("Origin: {}", bench.server.url);
    let address = format!("Host: {}", bench.server.url.trim_start_matches("http://"));
    for headers in [
        ["Host: localhost", "Origin: https://ops.example.com"],
        [&address, &own],
    ] {
        let answer = send(
            &bench,
            request("GET", &format!("/tasker/tasks/{id}"), &headers, ""),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{headers:?}: {answer}");
    }
    let json = [
        "Host: localhost",
        "Origin: https://ops.example.com",
        "Content-Type: application/json",
    ];
    let answer = send(
        &bench,
        request("POST", &path, &json, r#"{"by":"ops","reason":"asked for"}"#),
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(
        state(&get(&mut bench.client, &id).await),
        TaskState::Cancelled
    );
}

#[tokio::test]
async fn http_2_authority_is_checked() {
    let mut bench = named().await;
    let id = submit(&mut bench.client, "t/chain", "{}").await;
    let livez = || http::Request::get("/livez");
    assert_eq!(
        over_http_2(&bench, "localhost:7233", livez(), Vec::new())
            .await
            .0,
        200
    );
    let (status, body) = over_http_2(&bench, "evil.example", livez(), Vec::new()).await;
    assert!(
        status == 403 && body.contains("HOST_NOT_ALLOWED"),
        "{status} {body}"
    );
    let hidden = livez().header("host", "localhost");
    assert_eq!(
        over_http_2(&bench, "evil.example", hidden, Vec::new())
            .await
            .0,
        400
    );
    let cancel = |media: &str| {
        http::Request::post(CANCEL)
            .header("content-type", media)
            .header("te", "trailers")
    };
    for media in [
        "application/grpc-web+proto",
        "application/grpcish",
        "application/grpc-web",
    ] {
        let (status, body) = over_http_2(&bench, "evil.example", cancel(media), framed(&id)).await;
        assert!(
            status == 403 && body.contains("HOST_NOT_ALLOWED"),
            "{media}: {status} {body}"
        );
    }
    let from_page = cancel("application/grpc").header("origin", "https://evil.example");
    assert_eq!(
        over_http_2(&bench, "evil.example", from_page, framed(&id))
            .await
            .0,
        403
    );
    assert_eq!(
        state(&get(&mut bench.client, &id).await),
        TaskState::Pending
    );
    // A native gRPC client may address the server by any name.
    let (status, _) = over_http_2(
        &bench,
        "some.other.example:1",
        cancel("application/grpc"),
        framed(&id),
    )
    .await;
    assert_eq!(status, 200);
    assert_eq!(
        state(&get(&mut bench.client, &id).await),
        TaskState::Cancelled
    );
}
