//! `tasker migrate`, and servers that migrate at their start: repeated, and all at once.

use serde_json::Value;
use tokio::process::Command;

use super::{Listening, run, server, support::TestDb, tasker};

fn migrate(db: &TestDb, more: &[&str]) -> Command {
    let mut command = tasker(["migrate"]);
    command.args(more).env("TASKER_DATABASE_URL", db.url());
    command
}

#[tokio::test]
async fn the_second_time_there_is_nothing_to_do() {
    let db = TestDb::empty().await;
    let first = run(migrate(&db, &[])).await;
    assert_eq!((first.code, first.stdout.as_str()), (Some(0), ""));
    assert!(
        first.stderr.starts_with("schema tasker: applied initial"),
        "{}",
        first.stderr
    );
    let second = run(migrate(&db, &[])).await;
    assert_eq!(
        (second.code, second.stderr.as_str()),
        (Some(0), "schema tasker is up to date\n")
    );

    let other = run(migrate(&db, &["--schema", "other", "--json"]))
        .await
        .ok();
    assert_eq!(
        serde_json::from_str::<Value>(&other).unwrap()["applied"][0],
        "initial"
    );
    let other = run(migrate(&db, &["--schema", "other", "--json"]))
        .await
        .ok();
    assert_eq!(
        serde_json::from_str::<Value>(&other).unwrap(),
        serde_json::json!({"applied": []})
    );
}

#[tokio::test]
async fn many_at_once_take_turns() {
    let db = TestDb::empty().await;
    let runs = (0..6).map(|_| tokio::spawn(run(migrate(&db, &["--json"]))));
    let mut applied = Vec::new();
    for run in runs.collect::<Vec<_>>() {
        let document: Value = serde_json::from_str(&run.await.unwrap().ok()).unwrap();
        applied.extend(document["applied"].as_array().unwrap().clone());
    }
    let known: i64 = db
        .connect()
        .await
        .query_one("SELECT count(*) FROM migrations", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(
        applied.len(),
        usize::try_from(known).unwrap(),
        "each was applied by one of them: {applied:?}"
    );
    assert_eq!(applied[0], "initial");
}

#[tokio::test]
async fn two_servers_may_migrate_at_once() {
    let db = TestDb::empty().await;
    let mut by_environment = server(db.url(), &[]);
    by_environment.env("TASKER_MIGRATE", "1");
    let (one, two) = tokio::join!(
        Listening::start(server(db.url(), &["--migrate"])),
        Listening::start(by_environment)
    );
    assert_ne!(one.url, two.url);
    for server in [&one, &two] {
        let said = run(tasker(["template", "list", "--server", &server.url])).await;
        assert_eq!(
            (said.code, said.stdout.as_str()),
            (Some(0), ""),
            "{}",
            said.stderr
        );
    }
}
