//! One order to many tasks.

use std::sync::atomic::Ordering;

use crate::{
    many::{MANY, ONE, Service, alone, count, start, submit_many, tell, told, until},
    support::{
        TestDb, invariants::invariants, orders::to_all, process::ServerProcess, server::register,
    },
};
use tasker::proto::{BulkOrder, OrderTasksRequest};
use tasker_worker::client::Client;

/// A server with `n` failed tasks, and a service that has recovered.
async fn failed(
    db: &TestDb,
    server: &ServerProcess,
    n: usize,
) -> (Client, Service, tasker_worker::WorkerHandle) {
    let mut client = Client::connect(&server.url).await.unwrap();
    register(&mut client, ONE).await;
    let service = Service::default();
    service.down.store(true, Ordering::SeqCst);
    let worker = service.worker(&[&server.url]);
    submit_many(&mut client, "t/one", n).await;
    until(&db.connect().await, "error", n).await;
    service.down.store(false, Ordering::SeqCst);
    (client, service, worker)
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_retry_of_10_000_tasks_reports_progress_and_completes_all() {
    let _machine = alone().await;
    let db = TestDb::new().await;
    let server = ServerProcess::start(db.url());
    let (mut client, service, _worker) = failed(&db, &server, MANY).await;
    let dry = OrderTasksRequest {
        dry_run: true,
        ..to_all(BulkOrder::Retry)
    };
    let counted = tell(&mut client, dry).await.unwrap();
    assert_eq!(
        counted
            .iter()
            .map(|news| (news.total, news.followed, news.done))
            .collect::<Vec<_>>(),
        [(10_000, 0, true)]
    );
    let rows = db.connect().await;
    assert_eq!(
        (
            count(&rows, "error").await,
            service.calls.load(Ordering::SeqCst)
        ),
        (MANY, MANY),
        "only counted"
    );

    let all = tell(&mut client, to_all(BulkOrder::Retry)).await.unwrap();
    assert!(all.len() > 10, "{} messages are no progress", all.len());
    assert!(
        all.windows(2)
            .all(|two| two[0].followed <= two[1].followed && two[1].total == 10_000)
    );
    let last = all.last().unwrap();
    assert_eq!((last.followed, last.refused, last.done), (10_000, 0, true));
    until(&rows, "complete", MANY).await;
    assert_eq!(
        service.calls.load(Ordering::SeqCst),
        2 * MANY,
        "each was called once more"
    );
    let again = told(&mut client, to_all(BulkOrder::Retry)).await;
    assert_eq!((again.total, again.followed), (0, 0));
    invariants(&rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_bulk_retry_continues_after_an_interruption() {
    let _machine = alone().await;
    let db = TestDb::new().await;
    let server = ServerProcess::start(db.url());
    let (mut client, service, _worker) = failed(&db, &server, MANY).await;
    let mut stream = start(&mut client, to_all(BulkOrder::Retry)).await;
    for _ in 0..3 {
        stream.message().await.unwrap().unwrap();
    }
    drop(stream);
    let rows = db.connect().await;
    // The server ends an order soon after its client left: the remaining tasks stay as they are.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let left = count(&rows, "error").await;
    assert!(left > 0 && left < MANY, "{left} of {MANY} are left");
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(count(&rows, "error").await, left, "it has stopped");
    let again = told(&mut client, to_all(BulkOrder::Retry)).await;
    assert_eq!(again.followed, i64::try_from(left).unwrap());
    until(&rows, "complete", MANY).await;
    assert_eq!(
        service.calls.load(Ordering::SeqCst),
        2 * MANY,
        "nothing was tried twice"
    );
    invariants(&rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_retry_on_a_killed_server_has_committed_its_progress() {
    let _machine = alone().await;
    let db = TestDb::new().await;
    let mut server = ServerProcess::start(db.url());
    let second = ServerProcess::start(db.url());
    let (mut client, _service, _worker) = failed(&db, &server, MANY).await;
    let mut stream = start(&mut client, to_all(BulkOrder::Retry)).await;
    let mut told_so_far = 0;
    while told_so_far < 1_000 {
        told_so_far = stream.message().await.unwrap().unwrap().followed;
    }
    server.kill();
    assert!(loop {
        match stream.message().await {
            Ok(Some(news)) if !news.done => told_so_far = news.followed,
            other => break other.is_err(),
        }
    });
    let rows = db.connect().await;
    let left = count(&rows, "error").await;
    assert!(
        left > 0 && i64::try_from(MANY - left).unwrap() >= told_so_far,
        "{left} left, {told_so_far} told"
    );
    // Any server does the rest; the worker reconnects to the first.
    let server = ServerProcess::start_at(db.url(), server.address());
    let mut client = Client::connect(&second.url).await.unwrap();
    let again = told(&mut client, to_all(BulkOrder::Retry)).await;
    assert_eq!(
        (again.followed, again.refused),
        (i64::try_from(left).unwrap(), 0)
    );
    until(&rows, "complete", MANY).await;
    invariants(&rows).await;
    drop(server);
}
