//! Compiles the protocol with protox, so nobody needs protoc, and keeps the descriptor set for server reflection.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files =
        ["analytics_service", "circuit_service", "event_service", "task_service", "template_service", "worker_service"]
            .map(|f| format!("proto/tasker/v1/{f}.proto"));
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // A message knows its name, by which its descriptor is found.
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        .build_server(env::var_os("CARGO_FEATURE_SERVER").is_some())
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}
