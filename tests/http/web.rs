//! Browsers: gRPC-Web over plain HTTP/1.1, and the pages that may call.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost::Message as _;
use tasker::{
    proto,
    server::{Origin, ServerConfig},
};

use crate::{
    site::Site,
    support::{
        TestDb,
        server::{Bench, TestServer, register},
    },
};

fn framed(message: &impl prost::Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    [
        &[0],
        &u32::try_from(bytes.len()).unwrap().to_be_bytes()[..],
        &bytes,
    ]
    .concat()
}

/// The messages of a body, and its trailers as text.
fn unframed(mut body: &[u8]) -> (Vec<Vec<u8>>, String) {
    let (mut messages, mut trailers) = (Vec::new(), String::new());
    while let [flags, a, b, c, d, rest @ ..] = body {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        match flags & 0x80 {
            0 => messages.push(rest[..length].to_vec()),
            _ => trailers.push_str(std::str::from_utf8(&rest[..length]).unwrap()),
        }
        body = &rest[length..];
    }
    (messages, trailers)
}

/// The frames are encoded one by one, each with a padding of its own.
fn decoded(text: &[u8]) -> Vec<u8> {
    text.chunks(4)
        .flat_map(|four| STANDARD.decode(four).unwrap())
        .collect()
}

async fn call(
    site: &Site,
    rpc: &str,
    media: &str,
    body: Vec<u8>,
) -> (reqwest::header::HeaderMap, Vec<u8>) {
    let request = site
        .client
        .post(site.url(&format!("/tasker.v1.{rpc}")))
        .header("content-type", media)
        .body(body);
    let response = request
        .header("accept", media)
        .header("x-grpc-web", "1")
        .send()
        .await
        .unwrap();
    assert_eq!(
        (response.status().as_u16(), response.version()),
        (200, reqwest::Version::HTTP_11)
    );
    (
        response.headers().clone(),
        response.bytes().await.unwrap().to_vec(),
    )
}

#[tokio::test]
async fn grpc_web_over_http_1_1_works() {
    let site = Site::new().await;
    let submit = proto::SubmitTaskRequest {
        namespace: "t".into(),
        task_name: "chain".into(),
        ..Default::default()
    };
    let (headers, body) = call(
        &site,
        "TaskService/SubmitTask",
        "application/grpc-web+proto",
        framed(&submit),
    )
    .await;
    assert!(
        headers["content-type"]
            .to_str()
            .unwrap()
            .starts_with("application/grpc-web"),
        "{headers:?}"
    );
    let (messages, trailers) = unframed(&body);
    let submitted = proto::SubmitTaskResponse::decode(messages[0].as_slice()).unwrap();
    assert!(
        submitted.created && trailers.contains("grpc-status:0"),
        "{trailers}"
    );
    // As text, for old browsers; and a stream.
    let (by, reason) = ("me".into(), "why".into());
    let cancel = proto::CancelTaskRequest {
        task_id: submitted.task_id.clone(),
        by,
        reason,
    };
    call(
        &site,
        "TaskService/CancelTask",
        "application/grpc-web+proto",
        framed(&cancel),
    )
    .await;
    let watch = proto::WatchTaskRequest {
        task_id: submitted.task_id,
        final_only: false,
    };
    let text = STANDARD.encode(framed(&watch)).into_bytes();
    let (_, body) = call(
        &site,
        "TaskService/WatchTask",
        "application/grpc-web-text+proto",
        text,
    )
    .await;
    let (messages, trailers) = unframed(&decoded(&body));
    let task = proto::WatchTaskResponse::decode(messages[0].as_slice())
        .unwrap()
        .task
        .unwrap();
    assert_eq!(
        (task.state(), messages.len()),
        (proto::TaskState::Cancelled, 1)
    );
    assert!(trailers.contains("grpc-status:0"), "{trailers}");
}

#[tokio::test]
async fn errors_over_grpc_web_have_their_status() {
    let site = Site::new().await;
    let get = proto::GetTaskRequest {
        task_id: uuid::Uuid::nil().to_string(),
    };
    for (rpc, body, status) in [
        ("TaskService/GetTask", framed(&get), "5"),
        ("TaskService/GetTask", b"\0\0\0\0\x02xx".to_vec(), "3"),
        ("TaskService/Nothing", framed(&get), "12"),
    ] {
        let (headers, body) = call(&site, rpc, "application/grpc-web+proto", body).await;
        assert!(
            headers["content-type"]
                .to_str()
                .unwrap()
                .starts_with("application/grpc-web"),
            "{headers:?}"
        );
        let in_header = headers.get("grpc-status").is_some_and(|s| s == status);
        let in_trailer = unframed(&body)
            .1
            .contains(&format!("grpc-status:{status}\r\n"));
        assert!(in_header || in_trailer, "{rpc}: {headers:?} {body:?}");
    }
}

#[tokio::test]
async fn page_of_an_unlisted_origin_is_refused() {
    let preflight = async |bench: &Bench, path: &str, origin: &str| {
        let request = reqwest::Client::new()
            .request(
                reqwest::Method::OPTIONS,
                format!("{}{path}", bench.server.url),
            )
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "content-type,x-grpc-web");
        request
            .send()
            .await
            .unwrap()
            .headers()
            .get("access-control-allow-origin")
            .map(|v| v.to_str().unwrap().to_owned())
    };
    let closed = Bench::new().await;
    let db = TestDb::new().await;
    let origin: Origin = "https://ops.example.com".parse().unwrap();
    let server = TestServer::start_with(
        &db,
        ServerConfig {
            cors_origins: vec![origin],
            ..Default::default()
        },
    )
    .await;
    let mut client = server.client().await;
    register(&mut client, crate::site::CHAIN).await;
    let open = Bench { db, server, client };
    for path in ["/tasker/tasks", "/tasker.v1.TaskService/SubmitTask"] {
        assert_eq!(
            preflight(&closed, path, "https://ops.example.com").await,
            None,
            "{path}"
        );
        let allowed = preflight(&open, path, "https://ops.example.com").await;
        assert_eq!(
            allowed.as_deref(),
            Some("https://ops.example.com"),
            "{path}"
        );
        assert_eq!(
            preflight(&open, path, "https://evil.example.com").await,
            None,
            "{path}"
        );
    }
    let get = reqwest::Client::new().get(format!("{}/tasker/workers", open.server.url));
    let response = get
        .header("origin", "https://ops.example.com")
        .send()
        .await
        .unwrap();
    assert_eq!(
        response.headers()["access-control-allow-origin"],
        "https://ops.example.com"
    );
    assert!(
        response.headers()["access-control-expose-headers"]
            .to_str()
            .unwrap()
            .contains("grpc-status")
    );
}
