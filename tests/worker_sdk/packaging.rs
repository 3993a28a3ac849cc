//! The packages that are published, and the dependencies of a service that links the SDK.

use std::process::Command;

/// The server's own dependencies; the SDK must bring none of them.
const SERVER_ONLY: [&str; 7] = [
    "axum",
    "cel",
    "clap",
    "deadpool-postgres",
    "jsonschema",
    "opentelemetry",
    "tokio-postgres",
];

/// The lines that cargo prints.
fn cargo(arguments: &[&str]) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--offline", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn sdk_does_not_link_the_server() {
    let tree = ["tree", "--package", "tasker-worker", "--edges", "normal"];
    let format = ["--prefix", "none", "--format", "{p}"];
    let tree = cargo(&[&tree[..], &format[..]].concat());
    let names: Vec<_> = tree
        .iter()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(names.contains(&"tonic"), "not a dependency tree: {tree:?}");
    for name in SERVER_ONLY {
        assert!(!names.contains(&name), "the SDK links {name}");
    }
}

#[test]
fn sdk_turns_on_no_feature_of_serde_json() {
    let tree = ["tree", "--package", "tasker-worker", "--edges", "normal"];
    let format = ["--prefix", "none", "--format", "{p} {f}"];
    let tree = cargo(&[&tree[..], &format[..]].concat());
    let line = tree
        .iter()
        .find(|line| line.starts_with("serde_json "))
        .expect("the SDK uses serde_json");
    let features = line.split(' ').nth(2).unwrap_or_default();
    assert_eq!(features, "default,std", "{line}");
}

#[test]
fn packages_contain_the_protocol_and_the_licenses() {
    for (package, files) in [
        ("tasker-proto", ["proto/tasker/v1/task.proto", "build.rs"]),
        ("tasker-worker", ["README.md", "src/lib.rs"]),
    ] {
        let list = ["package", "--list", "--allow-dirty", "--package", package];
        let contained = cargo(&list);
        for file in files.into_iter().chain(["LICENSE-APACHE", "LICENSE-MIT"]) {
            assert!(contained.iter().any(|c| c == file), "{package}: {file}");
        }
    }
}
