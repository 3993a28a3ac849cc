//! Clients of the server's reflection other than grpcurl.

use std::process::Output;

use tokio::process::Command;
use tokio_stream::StreamExt as _;
use tonic_reflection::pb::v1alpha::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest as Asks,
    server_reflection_response::MessageResponse as Answers,
};

use crate::{
    REGISTRATION, SERVICES,
    support::{
        server::{Bench, PATIENCE, submission},
        tool,
    },
};

/// The version of older tools; grpcurl itself uses v1 where it is offered.
#[tokio::test]
async fn reflection_v1alpha_is_supported() {
    let bench = Bench::new().await;
    let channel = tonic::transport::Endpoint::new(bench.server.url.clone())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut client = ServerReflectionClient::new(channel);
    let questions = [
        Asks::ListServices(String::new()),
        Asks::FileContainingSymbol("tasker.v1.WorkerService".into()),
        Asks::FileByFilename("tasker/v1/worker_service.proto".into()),
        Asks::FileContainingSymbol("no.such.Symbol".into()),
    ];
    let questions = questions.map(|asks| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(asks),
    });
    let answers = client
        .server_reflection_info(tokio_stream::iter(questions))
        .await
        .unwrap()
        .into_inner();
    let answers: Vec<_> = answers
        .map(|answer| answer.map(|a| a.message_response))
        .take(4)
        .collect()
        .await;

    let Ok(Some(Answers::ListServicesResponse(list))) = &answers[0] else {
        panic!("{:?}", answers[0])
    };
    let mut names: Vec<&str> = list.service.iter().map(|s| s.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, SERVICES);
    for answer in &answers[1..3] {
        let Ok(Some(Answers::FileDescriptorResponse(files))) = answer else {
            panic!("{answer:?}")
        };
        let file: prost_types::FileDescriptorProto =
            prost::Message::decode(files.file_descriptor_proto[0].as_slice()).unwrap();
        assert_eq!(file.service[0].name(), "WorkerService");
    }
    assert!(
        matches!(&answers[3], Err(status) if status.code() == tonic::Code::NotFound),
        "{:?}",
        answers[3]
    );
}

/// Python's reflection client uses v1alpha, and builds its messages from the descriptors in the
/// answer.
#[tokio::test]
#[ignore = "needs grpcio-reflection: make test"]
async fn python_client_submits_by_reflection() {
    const SCRIPT: &str = r#"
import grpc, sys
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

channel = grpc.insecure_channel(sys.argv[1])
pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
method = pool.FindServiceByName("tasker.v1.TaskService").FindMethodByName("SubmitTask")
request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
submit = channel.unary_unary("/tasker.v1.TaskService/SubmitTask", request.SerializeToString, response.FromString)
context = '{"email": "a@example.org", "name": "A"}'
print(submit(request(namespace="user_management", task_name="user_registration", context_json=context)).task_id)
"#;
    let mut bench = Bench::with(REGISTRATION).await;
    let address = bench.server.url.trim_start_matches("http://").to_owned();
    let python = Command::new(tool("python"))
        .args(["-c", SCRIPT, &address])
        .kill_on_drop(true)
        .output();
    let Output {
        status,
        stdout,
        stderr,
    } = tokio::time::timeout(PATIENCE, python)
        .await
        .expect("it ends")
        .unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    let task = bench.get(String::from_utf8(stdout).unwrap().trim()).await;
    assert_eq!(
        task.task.unwrap().task_name,
        submission("user_management/user_registration", "{}").task_name
    );
}
