//! One of two servers loses its database: the work of its workers and clients goes on at the other
//! server.

use std::time::{Duration, Instant};

use tasker::proto::{SubscribeRequest, WatchTaskRequest};
use tasker_worker::client::Client;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{Code, Status, Streaming};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_types::StatusExt as _;

use crate::{
    away::health,
    ledger::Ledger,
    load::{ONE, all_complete},
    proxy::{Proxy, Way},
    support::{
        TestDb,
        invariants::invariants,
        process::ServerProcess,
        server::{PATIENCE, eventually, finished, get, register, step, submit},
        worker::{RawWorker, registration},
    },
};

/// The lease of the servers.
const LEASE: Duration = Duration::from_secs(3);

/// Two servers; the connection of the first one to the database can be cut.
struct Two {
    db: TestDb,
    way: Proxy,
    cut: ServerProcess,
    whole: ServerProcess,
}

impl Two {
    async fn start() -> Self {
        let db = TestDb::new().await;
        let way = Proxy::start(db.url()).await;
        let (cut, whole) = (
            ServerProcess::start(&way.url),
            ServerProcess::start(db.url()),
        );
        register(&mut Client::connect(&whole.url).await.unwrap(), ONE).await;
        Self {
            db,
            way,
            cut,
            whole,
        }
    }
}

fn assert_cut_off(status: &Status) {
    assert!(status.message().contains("lost its database"), "{status:?}");
    assert_unavailable(status);
}

fn assert_unavailable(status: &Status) {
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(
        status
            .get_details_retry_info()
            .is_some_and(|info| info.retry_delay.is_some()),
        "{status:?}"
    );
}

/// A server that is cut off refuses a worker without waiting for its database.
async fn workers_are_refused_at_once(url: &str) {
    let asked = Instant::now();
    let refused = RawWorker::open(url, registration(&["other"], 1))
        .await
        .err()
        .expect("no database");
    assert_cut_off(&refused);
    assert!(
        asked.elapsed() < Duration::from_secs(1),
        "it took {:?} to refuse",
        asked.elapsed()
    );
}

/// Steps that run for longer than a lease and the grace that another server adds to it.
async fn steps_go_on_elsewhere(way: Way) {
    const STEPS: usize = 6;
    let two = Two::start().await;
    let mut client = Client::connect(&two.whole.url).await.unwrap();
    let mut raw = RawWorker::open(&two.cut.url, registration(&["other"], 1))
        .await
        .unwrap();
    let ledger = Ledger::default();
    let worker = ledger.worker(
        &[&two.cut.url, &two.whole.url],
        STEPS + 1,
        LEASE + Duration::from_secs(5),
    );
    let mut tasks = Vec::new();
    for _ in 0..STEPS {
        tasks.push(submit(&mut client, "t/one", "{}").await);
    }
    eventually("the steps run", || async {
        (ledger.running() == STEPS).then_some(())
    })
    .await;

    two.way.is(way);
    let lost = Instant::now();
    let ended = raw
        .hear()
        .await
        .expect_err("a message from a server without a database");
    assert_cut_off(&ended);
    let after = lost.elapsed();
    println!("the stream ended after {after:?}");
    assert!(
        after < LEASE,
        "the stream ended after {after:?}, when the lease was over"
    );
    workers_are_refused_at_once(&two.cut.url).await;

    // New work reaches the worker at the other server, and the running steps go on.
    tasks.push(submit(&mut client, "t/one", "{}").await);
    eventually("the new step runs", || async {
        (ledger.steps() == STEPS + 1).then_some(())
    })
    .await;
    let look = two.db.connect().await;
    all_complete(&look, &tasks).await;
    ledger.assert_each_once(STEPS + 1);
    for task in &tasks {
        assert_eq!(
            step(&get(&mut client, task).await, "only").attempts.len(),
            1,
            "a step was taken for lost"
        );
    }
    two.way.is(Way::Open);
    health(&two.cut.url, ServingStatus::Serving).await;
    let back = eventually("the server takes workers again", || async {
        RawWorker::open(&two.cut.url, registration(&["other"], 1))
            .await
            .ok()
    });
    drop(back.await);
    invariants(&look).await;
    worker.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_of_a_server_with_a_silent_database_link_continue_elsewhere() {
    steps_go_on_elsewhere(Way::Silent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_of_a_server_with_a_broken_database_link_continue_elsewhere() {
    steps_go_on_elsewhere(Way::Broken).await;
}

/// The error at the end of a stream.
async fn end<T>(mut stream: Streaming<T>) -> Status {
    let end = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended in good order"),
                Err(status) => return status,
            }
        }
    };
    tokio::time::timeout(PATIENCE, end)
        .await
        .expect("the stream does not end")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_server_without_database_end_with_unavailable() {
    let two = Two::start().await;
    let mut client = Client::connect(&two.cut.url).await.unwrap();
    let mut whole = Client::connect(&two.whole.url).await.unwrap();
    let id = submit(&mut whole, "t/one", "{}").await;
    let events = client
        .events
        .subscribe(SubscribeRequest::default())
        .await
        .unwrap()
        .into_inner();
    let mut watches = Vec::new();
    for final_only in [false, true] {
        let request = WatchTaskRequest {
            task_id: id.clone(),
            final_only,
        };
        watches.push(client.tasks.watch_task(request).await.unwrap().into_inner());
    }
    let mut sse = TcpStream::connect(two.cut.address()).await.unwrap();
    sse.write_all(b"GET /tasker/events HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    // The first bytes show that the subscription has begun before the database is cut off.
    let mut heard = [0; 64];
    assert!(sse.read(&mut heard).await.unwrap() > 0);

    two.way.is(Way::Silent);
    let mut told = String::new();
    let read = tokio::time::timeout(PATIENCE, sse.read_to_string(&mut told));
    let (events, read) = tokio::join!(end(events), read);
    assert_cut_off(&events);
    for watch in watches {
        // A watch may have found the missing database by its own look.
        assert_unavailable(&end(watch).await);
    }
    read.expect("the stream of HTTP does not end").unwrap();
    assert!(
        told.contains("event: error") && told.contains("lost its database"),
        "{told}"
    );
    // At the server that has its database, all work goes on.
    let mut worker = RawWorker::connect(&two.whole.url, &["h"]).await;
    let assignment = worker.assignment().await;
    worker
        .settle(&assignment, crate::support::worker::success("1"))
        .await;
    finished(&mut whole, &id).await;
}
