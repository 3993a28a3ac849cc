//! The cost of an idle server.

use std::time::{Duration, Instant};

use tasker::proto::SubscribeRequest;
use tasker_devdb::Cluster;
use tasker_worker::client::Client;

use crate::{
    cluster::{counting, statements},
    load::ONE,
    support::{
        process::ServerProcess,
        server::register,
        worker::{RawWorker, registration},
    },
};

const WORKERS: usize = 50;
const BUDGET_PER_SECOND: f64 = 5.0;
const SUBSCRIBERS: usize = 50;
/// Looks at the event log for subscribers.
const LOOKS_PER_SECOND: f64 = 1.0;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_server_with_50_workers_sends_few_queries() {
    let cluster = counting().await;
    let server = ServerProcess::start(&cluster.url());
    register(&mut Client::connect(&server.url).await.unwrap(), ONE).await;
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(
            RawWorker::open(&server.url, registration(&["h"], 4))
                .await
                .unwrap(),
        );
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let per_second = rate(&cluster).await;
    println!("{WORKERS} idle workers: {per_second:.2} statements per second");
    assert!(
        per_second <= BUDGET_PER_SECOND,
        "{per_second:.2} statements per second"
    );

    // One reader looks for all subscribers, whatever their number.
    let mut client = Client::connect(&server.url).await.unwrap();
    let mut subscribers = Vec::new();
    for _ in 0..SUBSCRIBERS {
        subscribers.push(
            client
                .events
                .subscribe(SubscribeRequest::default())
                .await
                .unwrap()
                .into_inner(),
        );
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let more = rate(&cluster).await - per_second;
    println!("{SUBSCRIBERS} idle subscribers: {more:.2} statements per second more");
    assert!(
        more <= LOOKS_PER_SECOND,
        "{more:.2} statements per second more"
    );
}

/// Statements per second, counted for ten seconds.
async fn rate(cluster: &Cluster) -> f64 {
    let (before, from) = (statements(cluster), Instant::now());
    tokio::time::sleep(Duration::from_secs(10)).await;
    let spent = statements(cluster) - before;
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let spent = spent as f64;
    spent / from.elapsed().as_secs_f64()
}
