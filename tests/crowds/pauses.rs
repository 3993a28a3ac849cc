//! Thousands of paused tasks: none of their steps starts until the pause is lifted, whatever is
//! restarted.

use std::{sync::atomic::Ordering, time::Duration};

use tasker::proto::{BulkOrder, WaitCause};
use tasker_worker::client::Client;

use crate::{
    many::{MANY, ONE, Service, alone, submit_many, told, until},
    support::{
        TestDb,
        invariants::invariants,
        orders::to_all,
        process::ServerProcess,
        server::{explained, lift, pause, register, submit},
    },
};

async fn calls_stay(service: &Service, calls: usize, time: Duration) {
    tokio::time::sleep(time).await;
    assert_eq!(service.calls.load(Ordering::SeqCst), calls);
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_namespace_with_10_000_tasks_starts_nothing_after_a_crash_and_completes_on_resume() {
    let _machine = alone().await;
    let db = TestDb::new().await;
    let mut first = ServerProcess::start(db.url());
    let second = ServerProcess::start(db.url());
    let mut client = Client::connect(&first.url).await.unwrap();
    register(&mut client, ONE).await;
    let service = Service::default();
    let _worker = service.worker(&[&first.url, &second.url]);
    assert_eq!(pause(&mut client, "t", "").await.paused_by, "ann");
    submit_many(&mut client, "t/one", MANY / 2).await;
    // The other server applies the pause too.
    let mut other = Client::connect(&second.url).await.unwrap();
    submit_many(&mut other, "t/one", MANY / 2).await;
    calls_stay(&service, 0, Duration::from_secs(2)).await;
    first.kill();
    let first = ServerProcess::start_at(db.url(), first.address());
    let mut client = Client::connect(&first.url).await.unwrap();
    let id = submit(&mut client, "t/one", "{}").await;
    calls_stay(&service, 0, Duration::from_secs(4)).await;
    let why = explained(&mut client, &id).await;
    assert_eq!(why.steps[0].waits[0].cause(), WaitCause::Paused, "{why:#?}");
    assert!(
        why.summary.contains("namespace t is paused since ")
            && why.summary.ends_with(" by ann: a test"),
        "{}",
        why.summary
    );
    assert_eq!(why.next, ["resume it: tasker template resume t --reason …"]);
    let rows = db.connect().await;
    invariants(&rows).await;
    assert!(lift(&mut client, "t", "").await);
    until(&rows, "complete", MANY + 1).await;
    assert_eq!(service.calls.load(Ordering::SeqCst), MANY + 1);
    invariants(&rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paused_10_000_tasks_do_not_start_after_a_crash() {
    let _machine = alone().await;
    let db = TestDb::new().await;
    let mut server = ServerProcess::start(db.url());
    let mut client = Client::connect(&server.url).await.unwrap();
    register(&mut client, ONE).await;
    submit_many(&mut client, "t/one", MANY).await;
    assert_eq!(
        told(&mut client, to_all(BulkOrder::Pause)).await.followed,
        10_000
    );
    let service = Service::default();
    let _worker = service.worker(&[&server.url]);
    calls_stay(&service, 0, Duration::from_secs(2)).await;
    server.kill();
    let server = ServerProcess::start_at(db.url(), server.address());
    let mut client = Client::connect(&server.url).await.unwrap();
    // Later tasks are not paused.
    submit(&mut client, "t/one", "{}").await;
    let rows = db.connect().await;
    until(&rows, "complete", 1).await;
    calls_stay(&service, 1, Duration::from_secs(3)).await;
    invariants(&rows).await;
    assert_eq!(
        told(&mut client, to_all(BulkOrder::Resume)).await.followed,
        10_000
    );
    until(&rows, "complete", MANY + 1).await;
    invariants(&rows).await;
}
