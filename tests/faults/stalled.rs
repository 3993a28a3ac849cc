//! A loop that has work and makes no progress, although the database answers: its server reports
//! NOT_SERVING, and serves again afterwards.

use std::time::{Duration, Instant};

use tasker::proto::ResultStatus;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::{
    away::{health, readyz},
    load::ONE,
    support::{
        TestDb,
        invariants::invariants,
        process::ServerProcess,
        server::{finished, register, submit},
        worker::{RawWorker, success},
    },
};

/// The longest time without progress of a loop (`engine/observe/pulse.rs`), and the time limit until the
/// server reports that.
const MAX_STALL: Duration = Duration::from_secs(10);
const KNOWN_BY: Duration = Duration::from_secs(60);
/// More answers than the settler can set aside one by one, two seconds each, before the server
/// detects that the loop makes no progress.
const ANSWERS: usize = 16;

/// Waits until the answer of `/readyz` contains this text; returns how long that took.
async fn ready(server: &ServerProcess, answer: &str) -> Duration {
    let asked = Instant::now();
    loop {
        let answered = readyz(server).await;
        if answered.contains(answer) {
            return asked.elapsed();
        }
        assert!(asked.elapsed() < KNOWN_BY, "{answer}: {answered}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The value of a metric without labels.
async fn metric(server: &ServerProcess, name: &str) -> f64 {
    let page = reqwest::get(format!("{}/metrics", server.url)).await;
    let page = page.unwrap().text().await.unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim().parse().unwrap()
}

/// The log lines about a loop without progress.
fn said(server: &ServerProcess) -> Vec<String> {
    let about = |line: &String| line.contains("makes no progress; the server is not ready");
    server.log().into_iter().filter(about).collect()
}

/// The log lines about a database that does not answer.
fn away(server: &ServerProcess) -> Vec<String> {
    let about = |line: &String| line.contains("the database does not answer");
    server.log().into_iter().filter(about).collect()
}

/// Another transaction holds a lock on a table that the settler writes to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_settle_loop_makes_the_server_not_serving() {
    let db = TestDb::new().await;
    let server = ServerProcess::start(db.url());
    let mut client = tasker_worker::client::Client::connect(&server.url)
        .await
        .unwrap();
    register(&mut client, ONE).await;
    let mut worker = RawWorker::connect(&server.url, &["h"]).await;
    // The first answer opens the settler's connection, before the lock is taken.
    let id = submit(&mut client, "t/one", "{}").await;
    let first = worker.assignment().await;
    worker.settle(&first, success("1")).await;
    finished(&mut client, &id).await;
    let (mut ids, mut assignments) = (Vec::new(), Vec::new());
    for _ in 0..ANSWERS {
        ids.push(submit(&mut client, "t/one", "{}").await);
        assignments.push(worker.assignment().await);
    }
    health(&server.url, ServingStatus::Serving).await;
    ready(&server, "200 OK").await;

    let mut holder = db.connect().await;
    let held = holder.transaction().await.unwrap();
    held.batch_execute("LOCK TABLE steps IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let answered = Instant::now();
    for assignment in &assignments {
        worker.answer(&assignment.lease_token, success("1")).await;
    }
    ready(&server, "stalled: a loop makes no progress").await;
    assert!(answered.elapsed() > MAX_STALL, "{:?}", answered.elapsed());
    health(&server.url, ServingStatus::NotServing).await;
    let stalled = metric(&server, "tasker_loop_stalled_seconds ").await;
    assert!(stalled > MAX_STALL.as_secs_f64(), "{stalled}");
    let lines = said(&server);
    assert!(
        lines.len() == 1 && lines[0].contains("settle"),
        "once, and which: {lines:?}"
    );
    // The database is not to blame: it answers all the time.
    assert_eq!(away(&server), Vec::<String>::new());

    held.rollback().await.unwrap();
    ready(&server, "200 OK").await;
    health(&server.url, ServingStatus::Serving).await;
    for assignment in &assignments {
        assert_eq!(
            worker.acknowledged(assignment).await,
            ResultStatus::Accepted
        );
    }
    for id in &ids {
        finished(&mut client, id).await;
    }
    invariants(&holder).await;
}

/// No result and no submit waits: there is only a worker with free slots, for which the server
/// cannot look at the queue.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_loops_make_the_server_not_serving() {
    let db = TestDb::new().await;
    let server = ServerProcess::start(db.url());
    let mut client = tasker_worker::client::Client::connect(&server.url)
        .await
        .unwrap();
    register(&mut client, ONE).await;
    let mut worker = RawWorker::connect(&server.url, &["h"]).await;
    ready(&server, "200 OK").await;

    let mut holder = db.connect().await;
    let held = holder.transaction().await.unwrap();
    held.batch_execute("LOCK TABLE queue IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    ready(&server, "stalled: a loop makes no progress").await;
    health(&server.url, ServingStatus::NotServing).await;
    assert_eq!(away(&server), Vec::<String>::new());
    let lines = said(&server);
    let looks = ["dispatch", "reaper"];
    assert!(
        looks.iter().any(|name| lines[0].contains(name)),
        "{lines:?}"
    );

    held.rollback().await.unwrap();
    ready(&server, "200 OK").await;
    health(&server.url, ServingStatus::Serving).await;
    let id = submit(&mut client, "t/one", "{}").await;
    let assignment = worker.assignment().await;
    assert_eq!(
        worker.settle(&assignment, success("1")).await,
        ResultStatus::Accepted
    );
    finished(&mut client, &id).await;
    invariants(&holder).await;
}
