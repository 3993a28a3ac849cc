//! Clients and operators while the database is away: every kind of call, health, and the log.

use std::time::{Duration, Instant};

use tasker::proto;
use tasker_worker::client::Client;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::Status;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    load::{Refusal, assert_says_when_to_come_back},
    support::{
        process::ServerProcess,
        server::{PATIENCE, submission},
    },
};

/// Waits until the standard health service reports this status; returns how long that took.
pub async fn health(url: &str, wanted: ServingStatus) -> Duration {
    let channel = tonic::transport::Endpoint::from_shared(url.to_owned())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut client = HealthClient::new(channel);
    let asked = Instant::now();
    loop {
        let response = client
            .check(HealthCheckRequest::default())
            .await
            .unwrap()
            .into_inner();
        if response.status() == wanted {
            return asked.elapsed();
        }
        assert!(
            asked.elapsed() < PATIENCE,
            "health does not become {wanted:?}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The answer to `GET /readyz`.
pub async fn readyz(server: &ServerProcess) -> String {
    let mut stream = TcpStream::connect(server.address()).await.unwrap();
    stream
        .write_all(b"GET /readyz HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// Repeats every kind of call for this time. The server refuses all of them soon, with RetryInfo.
pub async fn every_call_is_refused(url: &str, task_id: &str, time: Duration) {
    let until = Instant::now() + time;
    let probes = (0..4).map(|kind| {
        let (url, task_id) = (url.to_owned(), task_id.to_owned());
        tokio::spawn(async move {
            let mut client = Client::connect(&url).await.unwrap();
            let mut refusals = Vec::new();
            while Instant::now() < until {
                let asked = Instant::now();
                let status = call(&mut client, kind, &task_id).await;
                refusals.push(Refusal {
                    status,
                    after: asked.elapsed(),
                });
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            refusals
        })
    });
    for (kind, probe) in ["submit", "get", "list", "watch"]
        .into_iter()
        .zip(probes.collect::<Vec<_>>())
    {
        let refusals = probe.await.unwrap();
        let slowest = refusals.iter().map(|refusal| refusal.after).max().unwrap();
        println!(
            "{kind}: {} calls refused, the slowest after {slowest:?}",
            refusals.len()
        );
        assert_says_when_to_come_back(&refusals);
    }
}

async fn call(client: &mut Client, kind: usize, task_id: &str) -> Status {
    let task_id = task_id.to_owned();
    let refused = match kind {
        0 => client
            .tasks
            .submit_task(submission("t/fan", "{}"))
            .await
            .map(drop),
        1 => client
            .tasks
            .get_task(proto::GetTaskRequest { task_id })
            .await
            .map(drop),
        2 => client
            .tasks
            .list_tasks(proto::ListTasksRequest::default())
            .await
            .map(drop),
        _ => client
            .tasks
            .watch_task(proto::WatchTaskRequest {
                task_id,
                final_only: false,
            })
            .await
            .map(drop),
    };
    refused.expect_err("a call succeeded without a database")
}

/// The log has one line for each time that the database went away or came back, and no other line.
pub fn logged_once_each(server: &ServerProcess, times: usize) {
    let log = server.log();
    let count = |what: &str| log.iter().filter(|line| line.contains(what)).count();
    assert_eq!(count("the database does not answer"), times, "{log:#?}");
    // One more: the server also logs it at its start.
    assert_eq!(count("the database answers"), times + 1, "{log:#?}");
    assert_eq!(log.len(), 2 * times + 1, "{log:#?}");
}
