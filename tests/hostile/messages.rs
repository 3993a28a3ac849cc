//! Bytes that are not a protobuf message, and frames that are not a gRPC frame.

use prost::Message;
use tasker::proto;
use tonic::Code::{self, FailedPrecondition, InvalidArgument, ResourceExhausted, Unimplemented};

use crate::{
    raw::{WORK, field, frame, framed},
    support::{random::Random, server::submission},
    target::Target,
};

/// An rpc with a sample request, and a check whether bytes are such a request.
struct Rpc {
    name: &'static str,
    sample: Vec<u8>,
    is_message: fn(&[u8]) -> bool,
}

fn rpc<T: Message + Default>(name: &'static str, sample: &T) -> Rpc {
    Rpc {
        name,
        sample: sample.encode_to_vec(),
        is_message: |bytes| T::decode(bytes).is_ok(),
    }
}

fn rpcs() -> Vec<Rpc> {
    let mut rpcs = rpcs_of_tasks();
    rpcs.extend(rpcs_of_others());
    rpcs
}

fn rpcs_of_tasks() -> Vec<Rpc> {
    let id = "0190b5a0-7b3c-7def-8123-456789abcdef".to_owned();
    let submit = proto::SubmitTaskRequest {
        version: "9.9.9".into(),
        priority: -7,
        idempotency_key: "key".into(),
        correlation_id: "cörrelation".into(),
        annotations_json: "{}".into(),
        ..submission("none/none", r#"{"a":"é"}"#)
    };
    let list = proto::ListTasksRequest {
        namespace: "none".into(),
        states: vec![1, 2, 3],
        submitted_after: Some(prost_types::Timestamp {
            seconds: 1,
            nanos: 2,
        }),
        page_size: 7,
        ..Default::default()
    };
    vec![
        rpc("TaskService/SubmitTask", &submit),
        rpc(
            "TaskService/SubmitTasks",
            &proto::SubmitTasksRequest {
                tasks: vec![submit.clone(), submit],
            },
        ),
        rpc(
            "TaskService/GetTask",
            &proto::GetTaskRequest {
                task_id: id.clone(),
            },
        ),
        rpc("TaskService/ListTasks", &list),
        rpc(
            "TaskService/WatchTask",
            &proto::WatchTaskRequest {
                task_id: id.clone(),
                final_only: true,
            },
        ),
        rpc(
            "TaskService/CancelTask",
            &proto::CancelTaskRequest {
                task_id: id,
                by: "b".into(),
                reason: "r".into(),
            },
        ),
    ]
}

fn rpcs_of_others() -> Vec<Rpc> {
    vec![
        rpc(
            "TemplateService/RegisterTemplate",
            &proto::RegisterTemplateRequest {
                yaml: "é: [".into(),
                deny_warnings: false,
            },
        ),
        rpc(
            "TemplateService/ValidateTemplate",
            &proto::ValidateTemplateRequest {
                yaml: "é: [".into(),
            },
        ),
        rpc(
            "TemplateService/GetTemplate",
            &proto::GetTemplateRequest {
                namespace: "n".into(),
                task_name: "t".into(),
                version: "1.0.0".into(),
            },
        ),
        rpc(
            "TemplateService/ListTemplates",
            &proto::ListTemplatesRequest {
                page_size: 3,
                ..Default::default()
            },
        ),
        rpc(
            "WorkerService/ListWorkers",
            &proto::ListWorkersRequest {
                handler: "hé".into(),
                ..Default::default()
            },
        ),
    ]
}

#[tokio::test]
async fn bytes_that_are_not_a_message_are_refused() {
    let mut target = Target::new().await;
    let groups = [vec![0x7b; 200], vec![0x7c; 200]].concat();
    let broken: Vec<(&str, Vec<u8>)> = vec![
        ("an unfinished tag", vec![0x80]),
        ("an unfinished length", vec![0x0a, 0x80]),
        ("a length past the end", vec![0x0a, 5, b'a']),
        (
            "a length of 2^63",
            [vec![0x0a], vec![0xff; 9], vec![0x01]].concat(),
        ),
        ("a varint without end", vec![0xff; 64]),
        ("field 0", vec![0x02, 0x00]),
        ("wire type 6", vec![0x0e, 0x00]),
        ("wire type 7", vec![0x0f, 0x00]),
        ("the end of no group", vec![0x7c]),
        ("a group without end", vec![0x7b, 0x08, 0x01]),
        ("200 groups in each other", groups),
        ("text", b"{\"task_id\":\"x\"}".to_vec()),
        ("invalid UTF-8", field(1, b"\xff\xfe")),
        ("half a surrogate pair", field(1, b"\xed\xa0\x80")),
        ("an overlong NUL", field(1, b"\xc0\x80")),
        ("UTF-16", field(1, b"\xff\xfea\0b\0")),
        ("another wire type", vec![0x09, 0, 0, 0, 0, 0, 0, 0, 0]),
    ];
    for rpc in rpcs() {
        for (case, bytes) in &broken {
            if !(rpc.is_message)(bytes) {
                let says = "expected whole protobuf messages";
                target
                    .refuses_bytes(case, rpc.name, bytes.clone(), InvalidArgument, says)
                    .await;
            }
        }
    }
    target.end(180).await;
}

#[tokio::test]
async fn damaged_messages_are_refused() {
    let mut target = Target::new().await;
    let mut random = Random::seeded("messages");
    for rpc in rpcs() {
        let mut left = 25;
        while left > 0 {
            let bytes = random.damage(&rpc.sample);
            if !(rpc.is_message)(&bytes) {
                left -= 1;
                let case = format!("{bytes:?}");
                target
                    .refuses_bytes(case, rpc.name, bytes, InvalidArgument, "protobuf")
                    .await;
            }
        }
    }
    target.end(275).await;
}

/// The defect, the body, and the expected code and message.
type Broken = (&'static str, Vec<u8>, Code, &'static str);

/// Bodies that are not one frame with this message.
fn broken_frames(path: &str, message: &[u8]) -> Vec<Broken> {
    let n = message.len();
    // tonic treats it as the end of the stream.
    let after_head = if path == WORK {
        FailedPrecondition
    } else {
        InvalidArgument
    };
    vec![
        (
            "a flag without a codec",
            frame(1, n, message),
            InvalidArgument,
            "compressed",
        ),
        (
            "flag 2",
            frame(2, n, message),
            InvalidArgument,
            "compression flag",
        ),
        (
            "flag 255",
            frame(255, n, message),
            InvalidArgument,
            "compression flag",
        ),
        (
            "a frame cut in its head",
            vec![0, 0, 0],
            InvalidArgument,
            "EOF",
        ),
        (
            "a frame cut after its head",
            frame(0, 5, b""),
            after_head,
            "",
        ),
        (
            "a frame cut in its message",
            frame(0, n + 1, message),
            InvalidArgument,
            "EOF",
        ),
        (
            "a frame of 4 GiB",
            frame(0, u32::MAX as usize, message),
            ResourceExhausted,
            "16777216",
        ),
        (
            "a byte too much",
            frame(0, (16 << 20) + 1, message),
            ResourceExhausted,
            "16777216",
        ),
        (
            "a whole frame too large",
            framed(&vec![0x0a; (16 << 20) + 1]),
            ResourceExhausted,
            "16777216",
        ),
        (
            "HTML",
            b"<html><body>hello, this is no frame</body></html>".to_vec(),
            InvalidArgument,
            "compression flag",
        ),
    ]
}

#[tokio::test]
async fn malformed_frames_are_refused() {
    let mut target = Target::new().await;
    let mut all: Vec<(&str, Vec<u8>)> = rpcs()
        .into_iter()
        .map(|rpc| (rpc.name, rpc.sample))
        .collect();
    all.push(("WorkerService/Work", registration()));
    for (rpc, message) in all {
        let path = format!("/tasker.v1.{rpc}");
        for (case, body, code, says) in broken_frames(&path, &message) {
            let status = target.raw.post(&path, &[], body).await;
            target
                .check(format!("{rpc}: {case}"), Err::<(), _>(status), code, says)
                .await;
        }
        if path != WORK {
            let status = target.raw.post(&path, &[], Vec::new()).await;
            target
                .check(
                    format!("{rpc}: no message"),
                    Err::<(), _>(status),
                    InvalidArgument,
                    "Missing",
                )
                .await;
        }
        // The server reads gzip only, and this message is not gzip.
        for (encoding, code) in [
            ("gzip", InvalidArgument),
            ("zstd", Unimplemented),
            ("br", Unimplemented),
            ("x-bomb", Unimplemented),
        ] {
            let status = target
                .raw
                .post(
                    &path,
                    &[("grpc-encoding", encoding)],
                    frame(1, message.len(), &message),
                )
                .await;
            target
                .check(
                    format!("{rpc}: {encoding}"),
                    Err::<(), _>(status),
                    code,
                    encoding,
                )
                .await;
        }
    }
    target.end(170).await;
}

fn registration() -> Vec<u8> {
    let register = crate::support::worker::registration(&["x"], 1);
    proto::WorkRequest {
        message: Some(proto::work_request::Message::Register(register)),
    }
    .encode_to_vec()
}

#[tokio::test]
async fn unknown_rpcs_are_refused() {
    let mut target = Target::new().await;
    for path in [
        "/tasker.v1.TaskService/Nothing",
        "/tasker.v1.TaskService/submittask",
        "/tasker.v1.TaskService/GetTask/more",
        "/tasker.v1.TemplateService/DeleteTemplate",
        "/tasker.v1.WorkerService/Work2",
        "/tasker.v1.NoService/GetTask",
        "/tasker.v2.TaskService/GetTask",
        "/TaskService/GetTask",
        "/grpc.health.v1.Health/Nothing",
        "/",
        "/x",
        "/livez/x",
        "//",
        "/tasker.v1.TaskService/%00",
        "/tasker.v1.TaskService/..%2f..%2fetc",
    ] {
        let answer = target.raw.call(path, vec![]).await;
        target
            .check(path, answer, Unimplemented, "there is no rpc")
            .await;
    }
    let long = format!("/tasker.v1.TaskService/{}", "x".repeat(5_000));
    let answer = target.raw.call(&long, vec![]).await;
    target
        .check("a long path", answer, Unimplemented, "there is no rpc")
        .await;
    // The standard services are unaffected.
    let health = target
        .raw
        .call(
            "/grpc.health.v1.Health/Check",
            field(1, b"tasker.v1.TaskService"),
        )
        .await
        .unwrap();
    assert_eq!(health, [0x08, 0x01], "SERVING");
    let unknown = target
        .raw
        .call("/grpc.health.v1.Health/Check", field(1, b"nothing"))
        .await;
    assert_eq!(unknown.unwrap_err().code(), Code::NotFound);
    let list = framed(&field(7, b""));
    let status = target
        .raw
        .post(
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
            &[],
            list,
        )
        .await;
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    target.end(16).await;
}
