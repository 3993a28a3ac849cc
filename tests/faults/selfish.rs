//! Workers that behave badly harm themselves only.

use std::time::Duration;

use tasker::{
    domain::lease::Lease,
    proto::{
        AttemptOutcome, Heartbeat, StepResult, WorkRequest, work_request::Message as Says,
        worker_service_client::WorkerServiceClient,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use crate::{
    ledger::Ledger,
    load::ONE,
    support::{
        invariants::invariants,
        server::{Bench, eventually, step},
        worker::{registration, success},
    },
};

fn say(message: Says) -> WorkRequest {
    WorkRequest {
        message: Some(message),
    }
}

/// Sends results of steps that the worker never had, and a heartbeat now and then, until the stream
/// ends.
async fn flood(says: mpsc::Sender<WorkRequest>) {
    let mut nonce = 0;
    loop {
        nonce += 1;
        let lease_token = Lease {
            task_id: Uuid::nil(),
            step: 0,
            nonce,
        }
        .to_token();
        let result = StepResult {
            lease_token,
            outcome: Some(success("1")),
        };
        if says.send(say(Says::Result(result))).await.is_err() {
            break;
        }
        if nonce % 100 == 0 {
            let _ = says.send(say(Says::Heartbeat(Heartbeat {}))).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// The worker takes steps, never reads its stream, sends results of steps that it never had, and
/// keeps sending heartbeats.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn worker_that_floods_results_without_reading_loses_its_stream_and_steps() {
    let mut bench = Bench::with(ONE).await;
    // A tiny window, so that unread messages queue up in the server.
    let endpoint = tonic::transport::Endpoint::from_shared(bench.server.url.clone()).unwrap();
    let channel = endpoint
        .initial_stream_window_size(1 << 10)
        .connect()
        .await
        .unwrap();
    let mut client = WorkerServiceClient::new(channel);
    let (says, queue) = mpsc::channel(1_024);
    says.send(say(Says::Register(registration(&["h"], 4))))
        .await
        .unwrap();
    let _unread = client.work(ReceiverStream::new(queue)).await.unwrap();
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(bench.submit("t/one", "{}").await);
    }
    let db = bench.db.connect().await;
    let running = "SELECT count(*) FROM queue WHERE state = 'in_progress'";
    eventually("it has four steps", || async {
        (db.query_one(running, &[]).await.unwrap().get::<_, i64>(0) == 4).then_some(())
    })
    .await;

    let ledger = Ledger::default();
    let decent = ledger.worker(&[&bench.server.url], 4, Duration::ZERO);
    let flood = tokio::spawn(flood(says));
    // After the lease the steps go to the other worker, in spite of all heartbeats; and meanwhile
    // the other worker is served.
    for _ in 0..20 {
        let id = bench.submit("t/one", "{}").await;
        assert_eq!(step(&bench.finished(&id).await, "only").attempts.len(), 1);
    }
    for id in &ids {
        let task = bench.finished(id).await;
        let outcomes: Vec<_> = step(&task, "only")
            .attempts
            .iter()
            .map(tasker::proto::Attempt::outcome)
            .collect();
        assert_eq!(
            outcomes,
            [AttemptOutcome::WorkerLost, AttemptOutcome::Succeeded]
        );
    }
    ledger.assert_each_once(24);
    invariants(&db).await;
    flood.abort();
    decent.shutdown().await.unwrap();
}
