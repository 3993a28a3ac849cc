//! Compiles the protocol with protox, so that a build does not need protoc, and keeps the
//! descriptor set for server reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;
use tonic_prost_build::manual;

const CODEC: &str = "crate::proto::codec::Codec";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = [
        "analytics_service",
        "circuit_service",
        "event_service",
        "task_service",
        "template_service",
        "worker_service",
    ]
    .map(|f| format!("proto/tasker/v1/{f}.proto"));
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let server = env::var_os("CARGO_FEATURE_SERVER").is_some();
    if server {
        manual::Builder::new()
            .build_client(false)
            .compile(&[encoded_events()]);
    }
    // Messages with their type names, by which their descriptors are found.
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        .codec_path(CODEC)
        .build_server(server)
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}

/// EventService with answers that hold an encoded event: see `src/proto/encoded.rs`.
fn encoded_events() -> manual::Service {
    let subscribe = manual::Method::builder()
        .name("subscribe")
        .route_name("Subscribe")
        .input_type("crate::proto::SubscribeRequest")
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
