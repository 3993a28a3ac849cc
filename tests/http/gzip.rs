//! gzip in both directions, over HTTP and gRPC, and bodies that unpack to far more than their size.

use std::io::{Read as _, Write as _};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use prost::Message;
use tasker::proto::{self, work_request, work_response};
use tonic::{body::Body, codegen::Service as _, transport::Channel};

use crate::{
    site::Site,
    support::{
        TestDb,
        process::ServerProcess,
        server::{PATIENCE, TestServer},
    },
};

fn packed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn unpacked(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

fn frame(flag: u8, message: &[u8]) -> Vec<u8> {
    [
        &[flag][..],
        &u32::try_from(message.len()).unwrap().to_be_bytes(),
        message,
    ]
    .concat()
}

/// The answer of an rpc to a body: its headers and trailers, and its unpacked messages, each with
/// whether it was compressed.
async fn call(
    url: &str,
    rpc: &str,
    headers: &[(&str, &str)],
    body: Vec<u8>,
) -> (http::HeaderMap, Vec<(bool, Vec<u8>)>) {
    let mut channel = Channel::from_shared(url.to_owned())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut request = http::Request::post(format!("/tasker.v1.{rpc}")).header("te", "trailers");
    request = request.header("content-type", "application/grpc");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    std::future::poll_fn(|context| channel.poll_ready(context))
        .await
        .unwrap();
    let request = request
        .body(Body::new(axum::body::Body::from(body)))
        .unwrap();
    let response = tokio::time::timeout(PATIENCE, channel.call(request))
        .await
        .unwrap()
        .unwrap();
    let mut headers = response.headers().clone();
    let mut bytes = Vec::new();
    let mut body = response.into_body();
    while let Some(frame) = http_body_util::BodyExt::frame(&mut body).await {
        match frame.unwrap().into_data() {
            Ok(data) => bytes.extend_from_slice(&data),
            Err(trailers) => headers.extend(trailers.into_trailers().unwrap()),
        }
    }
    let (mut rest, mut messages) = (bytes.as_slice(), Vec::new());
    while let [flag, a, b, c, d, more @ ..] = rest {
        let (message, more) = more.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        messages.push((
            *flag == 1,
            if *flag == 1 {
                unpacked(message)
            } else {
                message.to_vec()
            },
        ));
        rest = more;
    }
    (headers, messages)
}

fn submission(context: &str) -> proto::SubmitTaskRequest {
    proto::SubmitTaskRequest {
        namespace: "t".into(),
        task_name: "chain".into(),
        context_json: context.into(),
        ..Default::default()
    }
}

const GZIP: [(&str, &str); 2] = [
    ("grpc-encoding", "gzip"),
    ("grpc-accept-encoding", "identity, deflate, gzip"),
];

#[tokio::test]
async fn compressed_grpc_messages_are_accepted() {
    let site = Site::new().await;
    let url = &site.bench.server.url;
    let context = format!(r#"{{"x":"{}"}}"#, "y".repeat(50_000));
    let body = frame(1, &packed(&submission(&context).encode_to_vec()));
    assert!(body.len() < 1_000);
    let (headers, messages) = call(url, "TaskService/SubmitTask", &GZIP, body).await;
    assert_eq!(headers["grpc-status"], "0", "{headers:?}");
    let id = proto::SubmitTaskResponse::decode(messages[0].1.as_slice())
        .unwrap()
        .task_id;
    assert!(!messages[0].0, "so small an answer is not packed");
    // A request with an encoding may still contain uncompressed messages.
    let get = frame(
        0,
        &proto::GetTaskRequest {
            task_id: id.clone(),
        }
        .encode_to_vec(),
    );
    let (headers, messages) = call(url, "TaskService/GetTask", &GZIP, get.clone()).await;
    assert_eq!(
        (headers["grpc-encoding"].to_str().unwrap(), messages[0].0),
        ("gzip", true)
    );
    let answer = proto::GetTaskResponse::decode(messages[0].1.as_slice()).unwrap();
    assert_eq!(answer.task.unwrap().context_json, context);
    let (headers, messages) = call(url, "TaskService/GetTask", &[], get).await;
    assert!(!headers.contains_key("grpc-encoding") && !messages[0].0);
    // A worker's stream, in both directions.
    let register = work_request::Message::Register(proto::Register {
        name: "w".into(),
        handlers: vec!["h".into()],
        max_concurrent_steps: 1,
        ..Default::default()
    });
    let drain = work_request::Message::Drain(proto::Drain::default());
    let says: Vec<u8> = [register, drain]
        .map(|message| {
            frame(
                1,
                &packed(
                    &proto::WorkRequest {
                        message: Some(message),
                    }
                    .encode_to_vec(),
                ),
            )
        })
        .concat();
    let (headers, messages) = call(url, "WorkerService/Work", &GZIP, says).await;
    assert_eq!(headers["grpc-encoding"], "gzip");
    let first = proto::WorkResponse::decode(messages[0].1.as_slice()).unwrap();
    assert!(
        matches!(first.message, Some(work_response::Message::Registered(_))),
        "{first:?}"
    );
    for (was_packed, message) in &messages {
        assert_eq!(*was_packed, message.len() >= 1_024);
    }
}

#[tokio::test]
async fn other_encodings_are_refused_by_name() {
    let site = Site::new().await;
    let message = frame(1, &packed(&submission("{}").encode_to_vec()));
    let status = async |headers: &[(&str, &str)], body: Vec<u8>| {
        call(
            &site.bench.server.url,
            "TaskService/SubmitTask",
            headers,
            body,
        )
        .await
        .0
    };
    for encoding in ["deflate", "zstd", "GZIP", "gzip,gzip"] {
        let headers = status(&[("grpc-encoding", encoding)], message.clone()).await;
        assert_eq!(
            (&headers["grpc-status"], &headers["grpc-accept-encoding"]),
            (&"12".parse().unwrap(), &"gzip,identity".parse().unwrap())
        );
        assert!(
            headers["grpc-message"]
                .to_str()
                .unwrap()
                .contains("expected%20gzip%20or%20identity"),
            "{headers:?}"
        );
    }
    // The flag marks the message as compressed, but no encoding is named; or the message is not
    // gzip.
    assert_eq!(status(&[], message.clone()).await["grpc-status"], "3");
    assert_eq!(
        status(&GZIP, frame(1, b"no gzip at all")).await["grpc-status"],
        "3"
    );
    assert_eq!(
        status(&GZIP, message[..message.len() - 1].to_vec()).await["grpc-status"],
        "3"
    );
    for encoding in ["br", "deflate", "gzip, gzip"] {
        let request = site
            .post_json("/tasker/tasks", "{}")
            .header("content-encoding", encoding);
        let answer = site.send(request).await;
        assert_eq!(answer.problem(), (415, "CONTENT_ENCODING", vec![]));
        assert_eq!(answer.headers["accept-encoding"], "gzip, identity");
    }
}

#[tokio::test]
async fn compressed_http_bodies_are_accepted() {
    let site = Site::new().await;
    let context = format!(r#"{{"x":"{}"}}"#, "y".repeat(50_000));
    let body = format!(r#"{{"namespace":"t","task_name":"chain","context":{context}}}"#);
    let post = |body: Vec<u8>| {
        site.post_json("/tasker/tasks", "")
            .header("content-encoding", "gzip")
            .body(body)
    };
    let answer = site.send(post(packed(body.as_bytes()))).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let path = format!("/tasker/tasks/{}", answer.json["task_id"].as_str().unwrap());
    let get = async |path: &str, accepted: &str| {
        let response = site
            .client
            .get(site.url(path))
            .header("accept-encoding", accepted)
            .send()
            .await
            .unwrap();
        (
            response.headers().clone(),
            response.bytes().await.unwrap().to_vec(),
        )
    };
    let (headers, bytes) = get(&path, "br;q=1, gzip").await;
    assert_eq!(
        (
            headers["content-encoding"].to_str().unwrap(),
            headers["vary"].to_str().unwrap()
        ),
        ("gzip", "accept-encoding")
    );
    assert!(bytes.len() < 5_000, "{}", bytes.len());
    let task: serde_json::Value = serde_json::from_slice(&unpacked(&bytes)).unwrap();
    assert_eq!(task["task"]["context"]["x"].as_str().unwrap().len(), 50_000);
    let (headers, plain) = get(&path, "gzip;q=0").await;
    assert!(!headers.contains_key("content-encoding") && plain == unpacked(&bytes));
    // Pages too are compressed; tiny answers and event streams are not.
    assert_eq!(
        get("/tasker/openapi.json", "gzip").await.0["content-encoding"],
        "gzip"
    );
    assert!(
        !get("/livez", "gzip")
            .await
            .0
            .contains_key("content-encoding")
    );
    let events = site
        .client
        .get(site.url("/tasker/events"))
        .header("accept-encoding", "gzip")
        .send()
        .await
        .unwrap();
    assert!(!events.headers().contains_key("content-encoding"));
    let broken = site.send(post(b"no gzip".to_vec())).await;
    assert_eq!(broken.problem(), (400, "BODY_UNREADABLE", vec![]));
}

#[tokio::test]
async fn body_that_decompresses_over_the_limit_is_refused_cheaply() {
    let db = TestDb::new().await;
    let server = ServerProcess::start(db.url());
    let bomb = packed(&vec![b' '; 200 << 20]);
    assert!(bomb.len() < 1 << 20, "{}", bomb.len());
    // A first request, so that the measurement excludes the memory that any first request takes.
    call(
        &server.url,
        "TaskService/SubmitTask",
        &GZIP,
        frame(1, &bomb),
    )
    .await;
    let before = server.memory_mib();
    for _ in 0..3 {
        let grpc = (0..3).map(|_| {
            call(
                &server.url,
                "TaskService/SubmitTask",
                &GZIP,
                frame(1, &bomb),
            )
        });
        for (headers, _) in futures_util::future::join_all(grpc).await {
            assert_eq!(headers["grpc-status"], "8", "{headers:?}");
        }
        let client = reqwest::Client::new();
        let post = client
            .post(format!("{}/tasker/tasks", server.url))
            .header("content-type", "application/json");
        let answer = post
            .header("content-encoding", "gzip")
            .body(bomb.clone())
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 413);
    }
    let grown = server.memory_mib().saturating_sub(before);
    // Three messages of 16 MiB at once, each in a buffer that doubles.
    assert!(grown < 120, "{before} MiB and {grown} more");
}

#[tokio::test]
async fn size_bounds_apply_to_decompressed_data() {
    let db = TestDb::new().await;
    let server = TestServer::start(&db).await;
    let cancel = |bytes: usize| {
        let whole = proto::CancelTaskRequest {
            reason: "y".repeat(bytes - 5),
            ..Default::default()
        }
        .encode_to_vec();
        assert_eq!(whole.len(), bytes);
        frame(1, &packed(&whole))
    };
    let status = async |body: Vec<u8>| {
        call(&server.url, "TaskService/CancelTask", &GZIP, body)
            .await
            .0
    };
    assert_eq!(
        status(cancel(16 << 20)).await["grpc-status"],
        "3",
        "a field is too long"
    );
    assert_eq!(
        status(cancel((16 << 20) + 1)).await["grpc-status"],
        "8",
        "the message is too large"
    );
}
