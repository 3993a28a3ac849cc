//! Generates the server's stubs on the messages of `tasker-proto`: the published crates contain no
//! server code.

use std::error::Error;

use tonic_prost_build::manual;

const CODEC: &str = "::tasker_proto::codec::Codec";
/// All but EventService, which `encoded_events` describes.
const SERVICES: [&str; 5] = [
    "analytics_service",
    "circuit_service",
    "task_service",
    "template_service",
    "worker_service",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = SERVICES.map(|service| format!("proto/tasker/v1/{service}.proto"));
    tonic_prost_build::configure()
        .codec_path(CODEC)
        .build_client(false)
        .extern_path(".tasker.v1", "::tasker_proto")
        .compile_fds(protox::compile(files, ["proto"])?)?;
    manual::Builder::new()
        .build_client(false)
        .compile(&[encoded_events()]);
    Ok(())
}

/// EventService with answers that hold an encoded event: see `src/proto/encoded.rs`.
fn encoded_events() -> manual::Service {
    let subscribe = manual::Method::builder()
        .name("subscribe")
        .route_name("Subscribe")
        .input_type("::tasker_proto::SubscribeRequest")
        .output_type("crate::proto::encoded::SubscribeResponse")
        .codec_path(CODEC)
        .server_streaming()
        .build();
    manual::Service::builder()
        .name("EventService")
        .package("tasker.v1")
        .method(subscribe)
        .build()
}
