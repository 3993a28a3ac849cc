//! Worker streams that end without an announcement, and streams that are not read.

use std::time::{Duration, Instant};

use tasker::{
    proto::{
        AttemptOutcome, Register, ResultStatus, StepAssignment, WorkRequest, WorkResponse,
        work_request::Message as Says, work_response::Message as Hears,
        worker_service_client::WorkerServiceClient,
    },
    server::ServerConfig,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::cases_leases::ONE;
use crate::support::{
    TestDb,
    server::{Bench, PATIENCE, TestServer, eventually, register, step, submit},
    worker::{RawWorker, registration, success},
};

/// The lease of the test's server, which a busy machine keeps.
const LEASE: Duration = Duration::from_secs(10);

async fn bench() -> Bench {
    let mut bench = Bench::with_lease(LEASE).await;
    register(&mut bench.client, ONE).await;
    bench
}

/// How a worker leaves without having announced it.
#[derive(Clone, Copy, Debug)]
enum Leaves {
    /// The connection breaks.
    Breaks,
    /// Its client closes the stream in good order, as a library does with a stream that is dropped.
    Closes,
}

fn returning(worker_id: &str, held: &StepAssignment) -> Register {
    Register {
        previous_worker_id: worker_id.to_owned(),
        held_leases: vec![held.lease_token.clone()],
        ..registration(&["h"], 1)
    }
}

#[tokio::test]
async fn lost_stream_keeps_its_leases_for_the_return_of_its_worker() {
    for leaves in [Leaves::Breaks, Leaves::Closes] {
        let mut bench = bench().await;
        let mut holder = RawWorker::open(&bench.server.url, registration(&["h"], 1))
            .await
            .unwrap();
        let id = bench.submit("t/one", "{}").await;
        let held = holder.assignment().await;
        let mut other = RawWorker::connect(&bench.server.url, &["h"]).await;
        let worker_id = holder.registered.worker_id.clone();
        match leaves {
            Leaves::Breaks => drop(holder),
            Leaves::Closes => {
                holder.close();
                if let Ok(Some(message)) = holder.hear().await {
                    panic!("{leaves:?}: {message:?}");
                }
            }
        }
        other.hears_nothing(Duration::from_millis(900)).await;
        let mut back = RawWorker::open(&bench.server.url, returning(&worker_id, &held))
            .await
            .unwrap();
        assert_eq!(
            back.registered.kept_leases,
            std::slice::from_ref(&held.lease_token),
            "{leaves:?}"
        );
        assert_eq!(
            back.settle(&held, success("1")).await,
            ResultStatus::Accepted
        );
        let task = bench.finished(&id).await;
        assert_eq!(step(&task, "only").attempts.len(), 1, "{leaves:?}");
        other.hears_nothing(Duration::ZERO).await;
    }
}

#[tokio::test]
async fn drain_frees_the_leases_when_the_stream_closes() {
    let mut bench = bench().await;
    let mut holder = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/one", "{}").await;
    holder.assignment().await;
    let mut other = RawWorker::connect(&bench.server.url, &["h"]).await;
    holder.drain().await;
    // The drain alone frees nothing: the worker may still answer.
    other.hears_nothing(Duration::from_millis(300)).await;
    let closed = Instant::now();
    holder.close();
    let again = other.assignment().await;
    assert!(closed.elapsed() < LEASE, "the step waited for the lease");
    assert_eq!((again.attempt, again.charged_attempts), (2, 0));
    other.settle(&again, success("1")).await;
    let task = bench.finished(&id).await;
    let outcomes: Vec<_> = step(&task, "only")
        .attempts
        .iter()
        .map(tasker::proto::Attempt::outcome)
        .collect();
    assert_eq!(
        outcomes,
        [AttemptOutcome::Drained, AttemptOutcome::Succeeded]
    );
}

/// The number of tasks, the size of the context of each, and the most bytes of assignments that the
/// server keeps for one stream (`engine/dispatch/outbox.rs`), with those in its sockets and those of
/// the transaction that reached the bound.
const TASKS: i64 = 64;
const CONTEXT: usize = 600_000;
const MOST_KEPT: usize = 28 << 20;

async fn in_progress(db: &tokio_postgres::Client) -> i64 {
    let sql = "SELECT count(*) FROM queue WHERE state = 'in_progress'";
    db.query_one(sql, &[]).await.unwrap().get(0)
}

/// The worker has a slot for each step and does not read; what it does not read stays with the
/// other steps that wait, not in the memory of the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stream_that_is_not_read_gets_no_further_assignments() {
    let db = TestDb::new().await;
    // Longer than the test: a worker that reads nothing for a lease loses its stream.
    let config = ServerConfig {
        lease: Duration::from_secs(60),
        ..Default::default()
    };
    let server = TestServer::start_with(&db, config).await;
    let mut client = server.client().await;
    register(&mut client, ONE).await;
    let channel = tonic::transport::Endpoint::from_shared(server.url.clone())
        .unwrap()
        .initial_stream_window_size(256 << 10)
        .connect()
        .await
        .unwrap();
    let (says, queue) = mpsc::channel(1);
    let slots = i32::try_from(TASKS).unwrap();
    says.send(WorkRequest {
        message: Some(Says::Register(registration(&["h"], slots))),
    })
    .await
    .unwrap();
    let mut stream = WorkerServiceClient::new(channel)
        .work(ReceiverStream::new(queue))
        .await
        .unwrap()
        .into_inner();
    let context = format!(r#"{{"text": "{}"}}"#, "x".repeat(CONTEXT));
    for _ in 0..TASKS {
        submit(&mut client, "t/one", &context).await;
    }

    let watcher = db.connect().await;
    let kept = eventually("the server sends no more", || async {
        let before = in_progress(&watcher).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        (before > 0 && in_progress(&watcher).await == before).then_some(before)
    })
    .await;
    let bytes = usize::try_from(kept).unwrap() * CONTEXT;
    assert!(bytes < MOST_KEPT, "{kept} assignments");

    // Each read makes room for further ones.
    let read = async {
        let mut assigned = 0;
        while assigned < TASKS {
            let message: Option<WorkResponse> = stream.message().await.unwrap();
            let is_assignment = matches!(message.unwrap().message, Some(Hears::Assignment(_)));
            assigned += i64::from(is_assignment);
        }
    };
    tokio::time::timeout(PATIENCE, read).await.unwrap();
    eventually("all steps are in progress", || async {
        (in_progress(&watcher).await == TASKS).then_some(())
    })
    .await;
}
