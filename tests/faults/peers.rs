//! Two servers on one database.

use std::time::{Duration, Instant};

use tasker::proto::{CancelReason, ResultStatus, TaskState, WatchTaskRequest};
use tasker_worker::client::Client;

use crate::{
    ledger::Ledger,
    load::{FAN, Load, ONE, all_complete, all_done_once, nothing_left},
    support::{
        TestDb,
        invariants::invariants,
        process::ServerProcess,
        server::{register, state, submit},
        worker::{RawWorker, success},
    },
};

/// Time limit for a notification from one server to the other, on a busy machine. It is longer than
/// the second in which a server looks without notifications, so it does not exclude that.
const CROSSING: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_of_a_killed_server_continue_at_another() {
    let db = TestDb::new().await;
    let (mut one, two) = (
        ServerProcess::start(db.url()),
        ServerProcess::start(db.url()),
    );
    register(&mut Client::connect(&two.url).await.unwrap(), FAN).await;
    let ledger = Ledger::default();
    // Each worker has both addresses and connects to the first one first.
    let workers = [[&one.url, &two.url], [&two.url, &one.url]]
        .map(|a| ledger.worker(&a.map(String::as_str), 8, Duration::from_millis(300)));
    let load = Load::start(&two.url, "t/fan", Duration::from_millis(20));
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let running = ledger.running();
    one.kill();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let tasks = load.stop().await;
    let look = db.connect().await;
    assert!(running > 8, "only {running} steps ran when the server died");
    all_done_once(&look, &tasks, &ledger, workers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancels_and_notifications_reach_other_servers() {
    let db = TestDb::new().await;
    let (one, two) = (
        ServerProcess::start(db.url()),
        ServerProcess::start(db.url()),
    );
    let mut client = Client::connect(&one.url).await.unwrap();
    register(&mut client, ONE).await;
    let mut worker = RawWorker::connect(&two.url, &["h"]).await;

    let id = submit(&mut client, "t/one", "{}").await;
    let asked = Instant::now();
    let running = worker.assignment().await;
    assert!(
        asked.elapsed() < CROSSING,
        "the step took {:?} to cross",
        asked.elapsed()
    );
    let asked = Instant::now();
    let request = tasker::proto::CancelTaskRequest {
        task_id: id,
        by: "t".into(),
        reason: "r".into(),
    };
    client.tasks.cancel_task(request).await.unwrap();
    let cancel = worker.cancelled().await;
    assert_eq!(
        (&cancel.lease_token, cancel.reason()),
        (&running.lease_token, CancelReason::TaskCancelled)
    );
    assert!(
        asked.elapsed() < CROSSING,
        "the cancel took {:?} to cross",
        asked.elapsed()
    );
    assert_eq!(
        worker.settle(&running, success("1")).await,
        ResultStatus::Stale
    );

    let id = submit(&mut client, "t/one", "{}").await;
    let running = worker.assignment().await;
    let request = WatchTaskRequest {
        task_id: id,
        final_only: true,
    };
    let mut watch = client.tasks.watch_task(request).await.unwrap().into_inner();
    let asked = Instant::now();
    assert_eq!(
        worker.settle(&running, success("1")).await,
        ResultStatus::Accepted
    );
    let last = watch.message().await.unwrap().unwrap();
    assert_eq!(last.task.unwrap().state(), TaskState::Complete);
    assert!(
        asked.elapsed() < CROSSING,
        "the news took {:?} to cross",
        asked.elapsed()
    );
    invariants(&db.connect().await).await;
}

/// The other server is stopped in the middle of a transaction that holds row locks. Postgres ends
/// that transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_server_delays_another_only_briefly() {
    let db = TestDb::new().await;
    let (one, two) = (
        ServerProcess::start(db.url()),
        ServerProcess::start(db.url()),
    );
    register(&mut Client::connect(&two.url).await.unwrap(), FAN).await;
    let ledger = Ledger::default();
    let workers = [0, 1].map(|_| ledger.worker(&[&two.url], 8, Duration::from_millis(20)));
    let elsewhere =
        [0, 1].map(|_| ledger.worker(&[&one.url, &two.url], 8, Duration::from_millis(20)));
    let load = Load::start(&two.url, "t/fan", Duration::from_millis(10));
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    one.stop();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let tasks = load.stop().await;
    let look = db.connect().await;
    all_complete(&look, &tasks).await;
    one.go_on();
    nothing_left(&look).await;
    for worker in workers.into_iter().chain(elsewhere) {
        worker.shutdown().await.unwrap();
    }
    let mut client = Client::connect(&one.url).await.unwrap();
    assert_eq!(
        state(&crate::support::server::get(&mut client, &tasks[0]).await),
        TaskState::Complete
    );
}
