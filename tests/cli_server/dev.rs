//! `tasker dev`: it needs no set-up, also for root, and keeps its data.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use super::{Listening, run, tasker};

/// A folder that the user of the Postgres process can enter, for tests that run as root.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let dir =
            std::env::temp_dir().join(format!("tasker-test-{}", uuid::Uuid::new_v4().simple()));
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o711)).unwrap();
        Self(dir)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn dev(more: &[&str]) -> Command {
    let mut command = tasker(["dev", "--listen", "127.0.0.1:0", "--log", "warn"]);
    command.args(more);
    command
}

async fn templates(server: &Listening) -> String {
    run(tasker(["template", "list", "--server", &server.url]))
        .await
        .ok()
}

#[tokio::test]
async fn dev_data_survives_a_restart_and_a_kill() {
    let folder = Folder::new();
    let data = folder.0.join("data of mine");
    let data_dir = ["--data-dir", data.to_str().unwrap()];

    let first = Listening::start(dev(&data_dir)).await;
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/user_registration.yaml"
    );
    run(tasker([
        "template", "register", file, "--server", &first.url,
    ]))
    .await
    .ok();
    let said = run(dev(&data_dir)).await.failed(1);
    assert!(
        said.contains("in use"),
        "a second one on the same data is refused: {said}"
    );
    first.signal(Signal::TERM);
    assert_eq!(first.end().await, Some(0));

    let second = Listening::start(dev(&data_dir)).await;
    assert!(
        templates(&second)
            .await
            .contains("user_management/user_registration  2.6.0")
    );
    second.signal(Signal::KILL);
    assert_eq!(second.end().await, None);

    let third = Listening::start(dev(&data_dir)).await;
    assert!(
        templates(&third)
            .await
            .contains("user_management/user_registration  2.6.0")
    );
    third.signal(Signal::INT);
    assert_eq!(third.end().await, Some(0));
}

#[tokio::test]
async fn ephemeral_dev_keeps_no_data() {
    let mut command = dev(&["--ephemeral"]);
    let folder = Folder::new();
    let server = Listening::start({
        command.stderr(fs::File::create(folder.0.join("log")).unwrap());
        command
    })
    .await;
    assert_eq!(templates(&server).await, "");
    server.signal(Signal::TERM);
    assert_eq!(server.end().await, Some(0));
    let log = fs::read_to_string(folder.0.join("log")).unwrap();
    let place = log
        .split(" in ")
        .nth(1)
        .and_then(|rest| rest.split(" (ephemeral)").next());
    let place = place.unwrap_or_else(|| panic!("it says where: {log}"));
    assert!(
        Path::new(place).is_absolute() && !Path::new(place).exists(),
        "{place}"
    );
}

#[tokio::test]
async fn folder_without_postgres_is_named_in_the_error() {
    let mut command = dev(&["--ephemeral"]);
    command.env("TASKER_POSTGRES_BIN", "/nowhere");
    let said = run(command).await.failed(1);
    assert!(said.contains("/nowhere"), "{said}");
}

/// The process of the private Postgres with this data folder.
fn postgres_of(data: &Path) -> Pid {
    let file = fs::read_to_string(data.join("data/postmaster.pid")).unwrap();
    Pid::from_raw(file.lines().next().unwrap().trim().parse().unwrap()).unwrap()
}

#[tokio::test]
async fn private_postgres_ignores_the_environment_and_its_end_is_a_failure() {
    let folder = Folder::new();
    let data = folder.0.join("data");
    let mut command = dev(&["--data-dir", data.to_str().unwrap()]);
    command
        .env("SECRET_TOKEN", "hunter2")
        .env("PGOPTIONS", "-c work_mem=64MB")
        .env("LC_MESSAGES", "de_DE.UTF-8");
    command.stderr(fs::File::create(folder.0.join("log")).unwrap());
    let server = Listening::start(command).await;
    let postgres = postgres_of(&data);
    let environment = fs::read(format!("/proc/{}/environ", postgres.as_raw_nonzero())).unwrap();
    let environment = String::from_utf8_lossy(&environment);
    let names: Vec<&str> = environment
        .split('\0')
        .filter_map(|pair| Some(pair.split_once('=')?.0))
        .collect();
    let known = |name: &&str| ["PATH", "LC_ALL"].contains(name) || name.ends_with("LIBRARY_PATH");
    assert!(
        names.contains(&"PATH") && names.iter().all(known),
        "{names:?}"
    );

    kill_process(postgres, Signal::QUIT).unwrap();
    assert_eq!(server.end().await, Some(1));
    let log = fs::read_to_string(folder.0.join("log")).unwrap();
    assert!(
        log.contains("error: the private Postgres ended unexpectedly"),
        "{log}"
    );
    assert!(log.contains("postgres.log"), "it says where to look: {log}");
}
