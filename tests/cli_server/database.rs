//! `tasker migrate`, and servers that migrate at their start: repeated, and all at once.

use std::time::Duration;

use serde_json::Value;
use tokio::process::Command;

use super::{Listening, run, server, support::TestDb, tasker};

fn migrate(db: &TestDb, more: &[&str]) -> Command {
    let mut command = tasker(["migrate"]);
    command.args(more).env("TASKER_DATABASE_URL", db.url());
    command
}

#[tokio::test]
async fn second_migration_does_nothing() {
    let db = TestDb::empty().await;
    let first = run(migrate(&db, &[])).await;
    assert_eq!((first.code, first.stdout.as_str()), (Some(0), ""));
    assert!(
        first.stderr.starts_with("schema tasker: applied schema"),
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
        "schema"
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
async fn concurrent_migrations_take_turns() {
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
    assert_eq!(applied, ["schema"]);
}

/// Longer than the time-out of a lock, which is two seconds.
#[tokio::test]
async fn migration_waits_for_a_lock_that_another_session_holds() {
    let db = TestDb::new().await;
    let mut other = db.connect().await;
    let lock = other.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE migrations IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let migration = tokio::spawn(run(migrate(&db, &[])));
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!migration.is_finished());
    lock.rollback().await.unwrap();
    let ended = migration.await.unwrap();
    assert_eq!(
        (ended.code, ended.stderr.as_str()),
        (Some(0), "schema tasker is up to date\n")
    );
}

#[tokio::test]
async fn statements_of_a_migration_have_no_time_limit() {
    let db = TestDb::empty().await;
    let session = db.connect().await;
    session
        .batch_execute(
            "CREATE TABLE public.seen (statement_timeout text, lock_timeout text);
             CREATE FUNCTION public.see() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO public.seen VALUES (current_setting('statement_timeout'), current_setting('lock_timeout'));
             END $$;
             CREATE EVENT TRIGGER see ON ddl_command_start EXECUTE FUNCTION public.see()",
        )
        .await
        .unwrap();
    run(migrate(&db, &[])).await.ok();
    let limits = session
        .query(
            "SELECT DISTINCT statement_timeout, lock_timeout FROM public.seen",
            &[],
        )
        .await
        .unwrap();
    let limits: Vec<(String, String)> = limits.iter().map(|r| (r.get(0), r.get(1))).collect();
    assert_eq!(limits, [("0".to_owned(), "2s".to_owned())]);
}

#[tokio::test]
async fn database_of_an_unreleased_version_is_refused_with_a_hint() {
    let db = TestDb::empty().await;
    db.connect()
        .await
        .batch_execute(
            "CREATE SCHEMA tasker;
             CREATE TABLE tasker.migrations (version int PRIMARY KEY, name text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now());
             INSERT INTO tasker.migrations VALUES (1, 'initial'), (2, 'events')",
        )
        .await
        .unwrap();
    let refused = run(migrate(&db, &[])).await;
    assert_ne!(refused.code, Some(0));
    assert!(
        refused.stderr.contains("unreleased version")
            && refused.stderr.contains("`DROP SCHEMA tasker CASCADE`"),
        "{}",
        refused.stderr
    );
    let refused = run(server(db.url(), &["--migrate"])).await;
    assert!(
        refused.code != Some(0) && refused.stderr.contains("unreleased version"),
        "{}",
        refused.stderr
    );
}

#[tokio::test]
async fn two_servers_migrate_concurrently() {
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
