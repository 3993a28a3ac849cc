//! The log of Postgres after normal work.

use std::time::Duration;

use tasker::proto::ExplainTaskRequest;
use tasker_devdb::Cluster;
use tasker_worker::client::Client;

use crate::{
    cluster::{migrated, session},
    ledger::Ledger,
    load::{FAN, Load, all_done_once},
    support::{process::ServerProcess, server::register},
};

/// The error that ends a transaction whose guess was wrong (docs/reliability.md).
const GUESS: &str = "ERROR:  invalid input syntax for type boolean: \"";

/// The log lines about errors.
fn errors(cluster: &Cluster) -> Vec<String> {
    let log = std::fs::read_to_string(cluster.log()).unwrap();
    let is_one = |line: &&str| {
        ["ERROR:", "FATAL:", "WARNING:"]
            .iter()
            .any(|w| line.contains(w))
    };
    log.lines().filter(is_one).map(str::to_owned).collect()
}

/// Servers work for some seconds, answer questions about it, and end in good order; returns the
/// errors in the log of Postgres.
async fn after_work_of(servers: usize) -> Vec<String> {
    let cluster = migrated().await;
    let mut servers: Vec<ServerProcess> = (0..servers)
        .map(|_| ServerProcess::start(&cluster.url()))
        .collect();
    let mut client = Client::connect(&servers[0].url).await.unwrap();
    register(&mut client, FAN).await;
    let ledger = Ledger::default();
    let workers: Vec<_> = servers
        .iter()
        .map(|server| ledger.worker(&[&server.url], 8, Duration::from_millis(2)))
        .collect();
    let loads: Vec<Load> = servers
        .iter()
        .map(|server| Load::start(&server.url, "t/fan", Duration::from_millis(10)))
        .collect();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut tasks = Vec::new();
    for load in loads {
        tasks.extend(load.stop().await);
    }
    for task in &tasks[..10] {
        let request = ExplainTaskRequest {
            task_id: task.clone(),
        };
        client.tasks.explain_task(request).await.unwrap();
    }
    client
        .tasks
        .list_tasks(tasker::proto::ListTasksRequest::default())
        .await
        .unwrap();
    let db = session(&cluster.url()).await;
    all_done_once(&db, &tasks, &ledger, workers).await;
    for server in &mut servers {
        assert_eq!(server.terminate(), Some(0));
    }
    errors(&cluster)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_of_one_server_causes_no_error_in_postgres() {
    let errors = after_work_of(1).await;
    assert!(errors.is_empty(), "{errors:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_of_two_servers_causes_only_cache_conflicts_in_postgres() {
    let errors = after_work_of(2).await;
    println!("{} wrong guesses", errors.len());
    assert!(errors.iter().all(|e| e.contains(GUESS)), "{errors:#?}");
}
