//! The requirements of a database and a role: the error names the missing one at once, with the
//! command that adds it.

use rustix::process::Signal;
use tokio_postgres::Client;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use uuid::Uuid;

use super::{
    Listening, run, server,
    support::{TestDb, connect, own_cluster, server::eventually, shared},
    tasker,
};

const TEMPLATE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/linear.yaml");

/// Runs `tasker migrate` on a database.
async fn migrated(url: &str) -> super::Ended {
    let mut command = tasker(["migrate"]);
    command.env("TASKER_DATABASE_URL", url);
    run(command).await
}

/// A role that may connect, and its URL.
async fn role(admin: &Client, db: &TestDb) -> (String, String) {
    let name = format!("role_{}", Uuid::new_v4().simple());
    admin
        .batch_execute(&format!("CREATE ROLE {name} LOGIN PASSWORD 'x'"))
        .await
        .unwrap();
    let (_, place) = db.url().split_once('@').unwrap();
    (name.clone(), format!("postgres://{name}:x@{place}"))
}

async fn drop_role(admin: &Client, name: &str) {
    admin
        .batch_execute(&format!("DROP OWNED BY {name} CASCADE; DROP ROLE {name}"))
        .await
        .unwrap();
}

#[tokio::test]
async fn owner_of_the_schema_can_migrate() {
    let db = TestDb::empty().await;
    let admin = connect(db.url()).await;
    let (name, url) = role(&admin, &db).await;
    let said = migrated(&url).await.failed(64);
    assert!(
        said.contains(&format!(r#"CREATE SCHEMA tasker AUTHORIZATION "{name}""#)),
        "{said}"
    );
    admin.batch_execute("CREATE SCHEMA tasker").await.unwrap();
    let said = migrated(&url).await.failed(64);
    assert!(
        said.contains(&format!(
            r#"GRANT USAGE, CREATE ON SCHEMA tasker TO "{name}""#
        )),
        "{said}"
    );
    admin
        .batch_execute(&format!("ALTER SCHEMA tasker OWNER TO {name}"))
        .await
        .unwrap();
    migrated(&url).await.ok();
    migrated(&url).await.ok();
    drop_role(&admin, &name).await;
}

#[tokio::test]
async fn missing_privilege_is_named() {
    let db = TestDb::new().await;
    let admin = connect(db.url()).await;
    let (name, url) = role(&admin, &db).await;
    for (lacking, granted) in [
        ("lacks USAGE on the schema", "USAGE ON SCHEMA tasker"),
        (
            "lacks SELECT on migrations",
            "SELECT ON ALL TABLES IN SCHEMA tasker",
        ),
        (
            "lacks DELETE on ",
            "SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tasker",
        ),
        ("lacks USAGE on ", "USAGE ON ALL SEQUENCES IN SCHEMA tasker"),
    ] {
        let said = run(server(&url, &[])).await.failed(64);
        assert!(
            said.contains(lacking) && said.contains(&format!("role `{name}`")),
            "{said}"
        );
        assert!(
            said.contains("GRANT ") && !said.contains("tasker migrate"),
            "{said}"
        );
        admin
            .batch_execute(&format!("GRANT {granted} TO {name}"))
            .await
            .unwrap();
    }
    let listening = Listening::start(server(&url, &[])).await;
    run(tasker([
        "template",
        "register",
        TEMPLATE,
        "--server",
        &listening.url,
    ]))
    .await
    .ok();
    listening.signal(Signal::TERM);
    assert_eq!(listening.end().await, Some(0));
    drop_role(&admin, &name).await;
}

#[tokio::test]
async fn database_that_is_not_utf8_is_refused_at_start() {
    let cluster = shared().await;
    let admin = connect(&cluster.url()).await;
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let name = format!("test_{}", Uuid::new_v4().simple());
        let create = format!(
            "CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        );
        admin.batch_execute(&create).await.unwrap();
        for ended in [
            migrated(&cluster.url_of(&name)).await,
            run(server(&cluster.url_of(&name), &[])).await,
        ] {
            let said = ended.failed(64);
            assert!(
                said.contains(encoding) && said.contains("ENCODING 'UTF8' TEMPLATE template0"),
                "{said}"
            );
        }
        admin
            .batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)"))
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn settings_of_the_database_have_no_effect() {
    let db = TestDb::empty().await;
    let admin = connect(db.url()).await;
    for setting in [
        "standard_conforming_strings = off",
        "DateStyle = 'German, DMY'",
        "IntervalStyle = 'iso_8601'",
        "TimeZone = 'Asia/Kathmandu'",
        "bytea_output = 'escape'",
        "search_path = 'public'",
        "transform_null_equals = on",
        "default_transaction_isolation = 'serializable'",
        "extra_float_digits = -5",
        "idle_session_timeout = '1s'",
        "enable_indexscan = off",
    ] {
        let name: String = admin
            .query_one("SELECT current_database()::text", &[])
            .await
            .unwrap()
            .get(0);
        admin
            .batch_execute(&format!("ALTER DATABASE {name} SET {setting}"))
            .await
            .unwrap();
    }
    migrated(db.url()).await.ok();
    let listening = Listening::start(server(db.url(), &[])).await;
    run(tasker([
        "template",
        "register",
        TEMPLATE,
        "--server",
        &listening.url,
    ]))
    .await
    .ok();
    let listed = run(tasker(["template", "list", "--server", &listening.url]))
        .await
        .ok();
    assert!(!listed.is_empty());
    let partitions = "SELECT count(*) FROM tasker.event_partitions";
    let made = admin
        .query_one(partitions, &[])
        .await
        .unwrap()
        .get::<_, i64>(0);
    assert!(made > 0, "the event log has no partitions");
    let elsewhere = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(
        admin
            .query_one(elsewhere, &[])
            .await
            .unwrap()
            .get::<_, i64>(0),
        0
    );
    listening.signal(Signal::TERM);
    assert_eq!(listening.end().await, Some(0));
}

async fn readyz(url: &str) -> (u16, String) {
    let answer = reqwest::get(format!("{url}/readyz")).await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn health(url: &str) -> ServingStatus {
    let channel = tonic::transport::Endpoint::from_shared(url.to_owned())
        .unwrap()
        .connect()
        .await
        .unwrap();
    HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner()
        .status()
}

#[tokio::test]
async fn database_that_becomes_read_only_makes_the_server_not_serving() {
    let cluster = own_cluster().await;
    let db = TestDb::on(&cluster).await;
    let admin = connect(db.url()).await;
    let listening = Listening::start(server(db.url(), &[])).await;
    let ready = || async { Some(readyz(&listening.url).await) };
    eventually("it is ready", || async {
        ready().await.filter(|(code, _)| *code == 200)
    })
    .await;

    admin
        .batch_execute("ALTER SYSTEM SET default_transaction_read_only = on")
        .await
        .unwrap();
    admin
        .batch_execute("SELECT pg_reload_conf()")
        .await
        .unwrap();
    let said = eventually("it is not ready", || async {
        ready().await.filter(|(code, _)| *code == 503)
    })
    .await;
    assert!(said.1.contains("read-only"), "{said:?}");
    eventually("nor is its health", || async {
        Some(health(&listening.url).await).filter(|status| *status == ServingStatus::NotServing)
    })
    .await;
    let refused = migrated(db.url()).await.failed(69);
    assert!(
        refused.contains("is read-only") && refused.contains("hint: name the primary"),
        "{refused}"
    );

    admin
        .batch_execute("ALTER SYSTEM RESET default_transaction_read_only")
        .await
        .unwrap();
    admin
        .batch_execute("SELECT pg_reload_conf()")
        .await
        .unwrap();
    eventually("it is ready again", || async {
        ready().await.filter(|(code, _)| *code == 200)
    })
    .await;
    listening.signal(Signal::TERM);
    assert_eq!(listening.end().await, Some(0));
}
