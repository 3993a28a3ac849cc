//! Compiles the protocol with protox, so that a build does not need protoc, and keeps the
//! descriptor set.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

const SERVICES: [&str; 6] = [
    "analytics_service",
    "circuit_service",
    "event_service",
    "task_service",
    "template_service",
    "worker_service",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = SERVICES.map(|service| format!("proto/tasker/v1/{service}.proto"));
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // Messages with their type names, by which their descriptors are found.
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        .codec_path("crate::codec::Codec")
        .build_server(false)
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}
