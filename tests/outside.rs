//! A program outside the workspace, with its own lock file, that depends on `tasker-worker` alone:
//! `tests/outside`.

use std::process::Command;

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/outside/Cargo.toml");
/// Kept between runs, since most of the time goes into the dependencies.
const TARGET: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/outside");

/// Cargo turns each feature on in the whole program, so a feature of `serde_json` that the SDK asks
/// for changes the types of its user. In the workspace the server asks for some, so only a program
/// outside can notice.
#[test]
#[ignore = "builds a program with all its dependencies, from the registry"]
fn program_with_the_sdk_reads_numbers_as_without_it() {
    let ran = Command::new(env!("CARGO"))
        .args(["test", "--locked", "--manifest-path", PROGRAM])
        .args(["--target-dir", TARGET])
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&ran.stdout);
    assert!(
        ran.status.success(),
        "{report}\n{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    assert!(report.contains("5 passed"), "{report}");
}
