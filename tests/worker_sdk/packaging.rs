//! The dependencies of a service that links the SDK.

use std::process::Command;

/// The server's own dependencies; the SDK must bring none of them.
const SERVER_ONLY: [&str; 6] = [
    "tokio-postgres",
    "axum",
    "clap",
    "jsonschema",
    "deadpool-postgres",
    "opentelemetry",
];

#[test]
fn sdk_does_not_link_the_server() {
    let tree = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--no-default-features",
            "--features",
            "worker",
        ])
        .args(["--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .args([
            "--manifest-path",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        ])
        .output()
        .unwrap();
    let tree = String::from_utf8(tree.stdout).unwrap();
    let names: Vec<_> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(names.contains(&"tonic"), "not a dependency tree: {tree}");
    for name in SERVER_ONLY {
        assert!(!names.contains(&name), "the SDK links {name}");
    }
}
