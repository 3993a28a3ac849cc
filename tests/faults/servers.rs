//! Servers that are killed or stopped.

use std::time::Duration;

use tasker_worker::client::Client;

use crate::{
    ledger::Ledger,
    load::{FAN, Load, ONE, all_done_once},
    support::{
        TestDb,
        invariants::invariants,
        process::ServerProcess,
        server::{eventually, finished, register, step, submit},
    },
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_server_loses_no_task_and_charges_no_attempt() {
    let db = TestDb::new().await;
    let mut server = ServerProcess::start(db.url());
    register(&mut Client::connect(&server.url).await.unwrap(), FAN).await;
    let ledger = Ledger::default();
    let workers = [0, 1].map(|_| ledger.worker(&[&server.url], 8, Duration::from_millis(40)));
    let load = Load::start(&server.url, "t/fan", Duration::from_millis(10));
    for pause in [700, 1_300, 400] {
        tokio::time::sleep(Duration::from_millis(pause)).await;
        server.kill();
        let address = server.address().to_owned();
        server = ServerProcess::start_at(db.url(), &address);
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let tasks = load.stop().await;
    let look = db.connect().await;
    all_done_once(&look, &tasks, &ledger, workers).await;
}

/// The process is stopped for longer than a lease and goes on: its workers never fell silent, the
/// server just did not read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resumed_server_keeps_its_workers() {
    let db = TestDb::new().await;
    let server = ServerProcess::start(db.url());
    let mut client = Client::connect(&server.url).await.unwrap();
    register(&mut client, ONE).await;
    let ledger = Ledger::default();
    let worker = ledger.worker(&[&server.url], 8, Duration::from_secs(8));
    let id = submit(&mut client, "t/one", "{}").await;
    eventually("the step starts", || async {
        (ledger.running() == 1).then_some(())
    })
    .await;
    // Until the server would give up silent workers again.
    tokio::time::sleep(Duration::from_secs(4)).await;
    server.stop();
    tokio::time::sleep(Duration::from_secs(4)).await;
    server.go_on();
    let mut client = Client::connect(&server.url).await.unwrap();
    let task = finished(&mut client, &id).await;
    assert_eq!(step(&task, "only").attempts.len(), 1);
    ledger.assert_each_once(1);
    invariants(&db.connect().await).await;
    worker.shutdown().await.unwrap();
}
