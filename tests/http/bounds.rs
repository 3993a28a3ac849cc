//! The bounds of HTTP, each at its edge.

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use prost::Message as _;
use tasker::proto::{GetTaskRequest, task_service_client::TaskServiceClient};
use tonic::{Code, codegen::Service as _};

use crate::{
    site::Site,
    support::{TestDb, server::TestServer},
};

const MAX_BODY_BYTES: usize = 2 << 20;
const MAX_MESSAGE_BYTES: usize = 16 << 20;

#[tokio::test]
async fn body_over_2_mib_is_refused() {
    let site = Site::new().await;
    let body = r#"{"namespace":"t","task_name":"chain"}"#;
    let padded = |bytes: usize| format!("{body}{}", " ".repeat(bytes - body.len()));
    assert_eq!(
        site.post("/tasker/tasks", padded(MAX_BODY_BYTES))
            .await
            .status,
        201
    );
    let refused = site.post("/tasker/tasks", padded(MAX_BODY_BYTES + 1)).await;
    assert_eq!(refused.problem(), (413, "BODY_TOO_LARGE", vec![]));
    assert!(refused.text.contains("2097152"), "{}", refused.text);
    // The largest permitted context fits.
    let context = |bytes: usize| format!(r#"{{"x":"{}"}}"#, "y".repeat(bytes - 8));
    site.submit(&context(1 << 20)).await;
    let body = format!(
        r#"{{"namespace":"t","task_name":"chain","context":{}}}"#,
        context((1 << 20) + 1)
    );
    assert_eq!(
        site.post("/tasker/tasks", body).await.problem(),
        (400, "INVALID_FIELDS", vec!["/context".into()])
    );
}

#[tokio::test]
async fn grpc_message_over_16_mib_is_refused() {
    let db = TestDb::new().await;
    let server = TestServer::start(&db).await;
    let channel = tonic::transport::Channel::from_shared(server.url.clone())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut tasks = TaskServiceClient::new(channel);
    // The field's key and length take five bytes.
    let of_bytes = |bytes: usize| {
        let request = GetTaskRequest {
            task_id: "x".repeat(bytes - 5),
        };
        assert_eq!(request.encoded_len(), bytes);
        request
    };
    let read = tasks.get_task(of_bytes(MAX_MESSAGE_BYTES)).await;
    assert_eq!(read.unwrap_err().code(), Code::InvalidArgument);
    let refused = tasks.get_task(of_bytes(MAX_MESSAGE_BYTES + 1)).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("16777216"), "{refused:?}");
}

#[tokio::test]
async fn body_of_another_content_type_is_refused() {
    let site = Site::new().await;
    let body = r#"{"namespace":"t","task_name":"chain"}"#;
    for media in [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/yaml",
        "application/jsonx",
    ] {
        let request = site
            .client
            .post(site.url("/tasker/tasks"))
            .header("content-type", media)
            .body(body);
        assert_eq!(
            site.send(request).await.problem().1,
            "MEDIA_TYPE",
            "{media}"
        );
    }
    let request = site
        .client
        .post(site.url("/tasker/tasks"))
        .header("content-type", "Application/JSON;charset=utf-8");
    assert_eq!(site.send(request.body(body)).await.status, 201);
    let request = site
        .post_json("/tasker/tasks", "")
        .body(b"{\"namespace\":\"\xff\"}".to_vec());
    assert_eq!(
        site.send(request).await.problem(),
        (400, "BODY_UNREADABLE", vec![])
    );
}

#[tokio::test]
async fn slow_grpc_request_is_ended() {
    let db = TestDb::new().await;
    let server = TestServer::start(&db).await;
    let channel = tonic::transport::Channel::from_shared(server.url.clone())
        .unwrap()
        .connect()
        .await
        .unwrap();
    // A message of five bytes, of which only one arrives; and a stream, whose first message has
    // less time.
    let calls = [
        ("TaskService/GetTask", 20, "4"),
        ("WorkerService/Work", 10, "9"),
    ]
    .map(|(rpc, seconds, code)| {
        let mut channel = channel.clone();
        tokio::spawn(async move {
            let started = Instant::now();
            let first = stream::once(async { Ok::<_, axum::Error>(vec![0, 0, 0, 0, 5, 10]) });
            let body = axum::body::Body::from_stream(first.chain(stream::pending()));
            let request = http::Request::post(format!("/tasker.v1.{rpc}"))
                .header("content-type", "application/grpc");
            std::future::poll_fn(|context| channel.poll_ready(context))
                .await
                .unwrap();
            let request = request
                .header("te", "trailers")
                .body(tonic::body::Body::new(body))
                .unwrap();
            let answer = tokio::time::timeout(Duration::from_secs(60), channel.call(request)).await;
            let headers = answer.expect("an answer").unwrap().headers().clone();
            assert_eq!(headers["grpc-status"], code, "{rpc}: {headers:?}");
            let time = started.elapsed();
            assert!(
                (seconds - 1..seconds + 25).contains(&time.as_secs()),
                "{rpc}: {time:?}"
            );
        })
    });
    for call in calls {
        call.await.unwrap();
    }
}

/// The time for which the server keeps a connection after these bytes, and its answer.
async fn kept(address: &str, bytes: &[u8]) -> (Duration, String) {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let started = Instant::now();
    socket.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(60), socket.read_to_end(&mut answer)).await;
    let _ =
        read.unwrap_or_else(|_| panic!("kept for a minute: {:?}", String::from_utf8_lossy(bytes)));
    (
        started.elapsed(),
        String::from_utf8_lossy(&answer).into_owned(),
    )
}

#[tokio::test]
async fn connection_without_a_request_is_closed() {
    let db = TestDb::new().await;
    let server = TestServer::start(&db).await;
    let address = server.url.trim_start_matches("http://").to_owned();
    let submit = "POST /tasker/tasks HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
    // Nothing; half of HTTP/2's preface; half of the headers; a whole request and no second one;
    // half of a body.
    let said: [(&[u8], u64, &str); 5] = [
        (b"", 30, ""),
        (b"PRI * HTTP/2.0\r\n", 30, ""),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Long", 30, ""),
        (b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n", 30, "200 OK"),
        (submit.as_bytes(), 20, "BODY_TIMEOUT"),
    ];
    let all = said.map(|(bytes, ..)| {
        let address = address.clone();
        tokio::spawn(async move { kept(&address, bytes).await })
    });
    for (task, (bytes, seconds, says)) in all.into_iter().zip(said) {
        let (time, answer) = task.await.unwrap();
        let about = format!("{time:?} {:?} {answer}", String::from_utf8_lossy(bytes));
        assert!(answer.contains(says), "{about}");
        // The server answers the body's time-out, then closes the connection with the rest of the
        // body unread.
        assert!(
            (seconds - 1..seconds + 25).contains(&time.as_secs()),
            "{about}"
        );
    }
}
