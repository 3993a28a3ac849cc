//! `tasker dev`: no set-up at all, also for root, and the data stays.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use rustix::process::Signal;
use tokio::process::Command;

use super::{Listening, run, tasker};

/// A folder that the user whom Postgres runs as can get to, for when the tests are root's.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("tasker-test-{}", uuid::Uuid::new_v4().simple()));
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
    run(tasker(["template", "list", "--server", &server.url])).await.ok()
}

#[tokio::test]
async fn data_is_kept_between_two_runs_and_over_a_kill() {
    let folder = Folder::new();
    let data = folder.0.join("data of mine");
    let data_dir = ["--data-dir", data.to_str().unwrap()];

    let first = Listening::start(dev(&data_dir)).await;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/user_registration.yaml");
    run(tasker(["template", "register", file, "--server", &first.url])).await.ok();
    let said = run(dev(&data_dir)).await.failed(1);
    assert!(said.contains("in use"), "a second one on the same data is refused: {said}");
    first.signal(Signal::TERM);
    assert_eq!(first.end().await, Some(0));

    let second = Listening::start(dev(&data_dir)).await;
    assert!(templates(&second).await.contains("user_management/user_registration  2.6.0"));
    second.signal(Signal::KILL);
    assert_eq!(second.end().await, None);

    let third = Listening::start(dev(&data_dir)).await;
    assert!(templates(&third).await.contains("user_management/user_registration  2.6.0"));
    third.signal(Signal::INT);
    assert_eq!(third.end().await, Some(0));
}

#[tokio::test]
async fn nothing_is_kept_where_nothing_is_asked_to_be() {
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
    let place = log.split(" in ").nth(1).and_then(|rest| rest.split(" (nothing is kept)").next());
    let place = place.unwrap_or_else(|| panic!("it says where: {log}"));
    assert!(Path::new(place).is_absolute() && !Path::new(place).exists(), "{place}");
}

#[tokio::test]
async fn a_folder_without_postgres_is_named() {
    let mut command = dev(&["--ephemeral"]);
    command.env("TASKER_POSTGRES_BIN", "/nowhere");
    let said = run(command).await.failed(1);
    assert!(said.contains("/nowhere"), "{said}");
}
