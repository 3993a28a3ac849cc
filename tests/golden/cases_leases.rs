//! Workers and servers that die: cases 13 to 16.

use std::time::{Duration, Instant};

use tasker::{
    domain::worker::Registration,
    proto::{AttemptOutcome, CancelReason::LeaseLost, Register, ResultStatus, TaskState},
    server::ServerConfig,
    store::{self, Db, worker::NewWorker},
};
use tasker_worker::client::Client;

use crate::support::{
    SCHEMA, TestDb,
    process::ServerProcess,
    server::{self, Bench, TestServer, explained, finished, register, state, step},
    worker::{RawWorker, registration, released, retryable, success},
};

pub(super) const ONE: &str = "
task_name: one
namespace: t
version: 1.0.0
step_templates:
  - {name: only, handler_class: h, default_retryable: false}
";

#[tokio::test]
async fn case_13_lost_worker_uses_an_attempt_number_uncharged() {
    let mut bench = Bench::with(ONE).await;
    let connected = Instant::now();
    let mut first = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/one", "{}").await;
    let lost = first.assignment().await;
    drop(first);
    let mut second = RawWorker::connect(&bench.server.url, &["h"]).await;
    let again = second.assignment().await;
    assert!(
        connected.elapsed() > Duration::from_secs(2),
        "given away before the lease ended"
    );
    assert_eq!((again.attempt, again.charged_attempts), (2, 0));
    assert_eq!(again.idempotency_key, lost.idempotency_key);
    second.settle(&again, success("1")).await;
    let task = bench.finished(&id).await;
    assert_eq!(state(&task), TaskState::Complete);
    let attempts = &step(&task, "only").attempts;
    assert_eq!(attempts[0].outcome(), AttemptOutcome::WorkerLost);
    assert!(!attempts[0].charged);
}

#[tokio::test]
async fn heartbeat_extends_the_lease() {
    let mut bench = Bench::with(ONE).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/one", "{}").await;
    let assignment = worker.assignment().await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(
        worker.settle(&assignment, success("1")).await,
        ResultStatus::Accepted
    );
    assert_eq!(step(&bench.finished(&id).await, "only").attempt, 1);
}

#[tokio::test]
async fn silent_worker_with_an_open_stream_loses_its_steps_and_stream() {
    let mut bench = Bench::with(ONE).await;
    let mut silent = RawWorker::connect(&bench.server.url, &["h"]).await;
    silent.fall_silent();
    let id = bench.submit("t/one", "{}").await;
    let kept = silent.assignment().await;
    let mut other = RawWorker::connect(&bench.server.url, &["h"]).await;
    let again = other.assignment().await;
    assert_eq!((again.attempt, again.charged_attempts), (2, 0));
    assert_eq!(
        silent.hear().await.unwrap_err().code(),
        tonic::Code::Aborted
    );
    // The worker reconnects and names the lease that it has lost.
    let register = Register {
        previous_worker_id: silent.registered.worker_id.clone(),
        held_leases: vec![kept.lease_token.clone()],
        ..registration(&["h"], 1)
    };
    let mut back = RawWorker::open(&bench.server.url, register).await.unwrap();
    assert!(back.registered.kept_leases.is_empty());
    assert_eq!(back.cancelled().await.lease_token, kept.lease_token);
    assert_eq!(
        back.settle(&kept, success("\"late\"")).await,
        ResultStatus::Stale
    );
    other.settle(&again, success("1")).await;
    assert_eq!(step(&bench.finished(&id).await, "only").result_json, "1");
}

#[tokio::test]
async fn case_14_repeated_result_has_one_effect_and_two_acknowledgements() {
    let mut bench = Bench::with(ONE).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/one", "{}").await;
    let assignment = worker.assignment().await;
    // Together, so that both may be in one transaction; then once more after the end of the task.
    worker.answer(&assignment.lease_token, success("1")).await;
    worker.answer(&assignment.lease_token, success("2")).await;
    assert_eq!(worker.ack().await.status(), ResultStatus::Accepted);
    assert_eq!(worker.ack().await.status(), ResultStatus::Accepted);
    assert_eq!(
        worker.settle(&assignment, success("3")).await,
        ResultStatus::Accepted
    );
    let task = bench.finished(&id).await;
    assert_eq!(step(&task, "only").result_json, "1");
    assert_eq!(step(&task, "only").attempts.len(), 1);
}

const RETRYING: &str = "
task_name: one
namespace: t
version: 1.0.0
step_templates:
  - {name: only, handler_class: h, backoff: {base_seconds: 0.01}}
";

#[tokio::test]
async fn case_14_repeated_failure_after_the_next_attempt_is_acknowledged() {
    let mut bench = Bench::with(RETRYING).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/one", "{}").await;
    let first = worker.assignment().await;
    worker.settle(&first, retryable("busy", None)).await;
    let second = worker.assignment().await;
    assert_eq!(
        worker.settle(&first, retryable("busy", None)).await,
        ResultStatus::Accepted
    );
    assert_eq!(
        worker.settle(&second, success("1")).await,
        ResultStatus::Accepted
    );
    assert_eq!(step(&bench.finished(&id).await, "only").charged_attempts, 1);
}

const SHORT: &str = "
task_name: one
namespace: t
version: 1.0.0
step_templates:
  - {name: only, handler_class: h, backoff: {base_seconds: 0.01}, handler_config: {timeout_seconds: 0.2}}
";

#[tokio::test]
async fn case_15_result_of_a_superseded_attempt_is_stale() {
    let mut bench = Bench::with(SHORT).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/one", "{}").await;
    let first = worker.assignment().await;
    assert_eq!(worker.cancelled().await.lease_token, first.lease_token);
    let second = worker.assignment().await;
    assert_eq!((second.attempt, second.charged_attempts), (2, 1));
    assert_eq!(
        worker.settle(&first, success("\"late\"")).await,
        ResultStatus::Stale
    );
    assert_eq!(
        worker.settle(&second, success("\"right\"")).await,
        ResultStatus::Accepted
    );
    let task = bench.finished(&id).await;
    assert_eq!(step(&task, "only").result_json, "\"right\"");
    assert_eq!(
        step(&task, "only").attempts[0].outcome(),
        AttemptOutcome::TimedOut
    );
    assert!(step(&task, "only").attempts[0].charged);
    // A late answer leaves one note; an answer in time leaves none.
    assert_eq!(
        worker.settle(&first, retryable("again", None)).await,
        ResultStatus::Stale
    );
    let task = bench.get(&id).await;
    let attempts = &step(&task, "only").attempts;
    assert_eq!(attempts[0].late_outcome(), AttemptOutcome::Succeeded);
    assert!(attempts[0].late_result_at.unwrap().seconds >= attempts[0].ended_at.unwrap().seconds);
    assert_eq!(
        (attempts[1].late_result_at, attempts[1].late_outcome()),
        (None, AttemptOutcome::Unspecified)
    );
    // A lease that belongs to no attempt gets no note.
    let db = bench.db.connect().await;
    let notes: i64 = db
        .query_one("SELECT count(*) FROM late_results", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(notes, 1);
    // The event log has it once too, and an explanation reports it.
    let logged = db
        .query(
            "SELECT attempt, detail, outcome IS NULL FROM events WHERE type = 'step.answered_late'",
            &[],
        )
        .await
        .unwrap();
    let logged: Vec<(i32, String, bool)> = logged
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect();
    assert_eq!(logged, [(1, "succeeded".to_owned(), true)]);
    let explanation = explained(&mut bench.client, &id).await;
    let late = &explanation.steps[0].late_answer;
    assert!(
        late.starts_with("a worker sent a result of attempt 1 (succeeded) ")
            && late.ends_with(" after its end (timed_out); the result has no effect"),
        "{late}"
    );
}

#[tokio::test]
async fn case_16_killed_server_loses_no_work() {
    let db = TestDb::new().await;
    let mut process = ServerProcess::start(db.url());
    let mut client = Client::connect(&process.url).await.unwrap();
    register(&mut client, ONE).await;
    let mut worker = RawWorker::connect(&process.url, &["h"]).await;
    let mut ids = Vec::new();
    let mut running = Vec::new();
    for _ in 0..5 {
        ids.push(server::submit(&mut client, "t/one", "{}").await);
        running.push(worker.assignment().await);
    }
    let (address, before) = (
        process.address().to_owned(),
        worker.registered.worker_id.clone(),
    );
    process.kill();
    let process = ServerProcess::start_at(db.url(), &address);
    let register = Register {
        previous_worker_id: before,
        held_leases: running.iter().map(|a| a.lease_token.clone()).collect(),
        ..registration(&["h"], 16)
    };
    let mut worker = RawWorker::open(&process.url, register).await.unwrap();
    assert_eq!(worker.registered.kept_leases.len(), 5);
    for assignment in &running {
        assert_eq!(
            worker.settle(assignment, success("1")).await,
            ResultStatus::Accepted
        );
    }
    let mut client = Client::connect(&process.url).await.unwrap();
    for id in &ids {
        let task = finished(&mut client, id).await;
        assert_eq!(
            (state(&task), step(&task, "only").attempts.len()),
            (TaskState::Complete, 1)
        );
    }
}

#[tokio::test]
async fn undelivered_assignment_is_returned_immediately_uncharged() {
    const LEASE: Duration = Duration::from_secs(60);
    let db = TestDb::new().await;
    let config = ServerConfig {
        lease: LEASE,
        ..ServerConfig::default()
    };
    let server = TestServer::start_with(&db, config).await;
    let client = server.client().await;
    let mut bench = Bench { db, server, client };
    register(&mut bench.client, ONE).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/one", "{}").await;
    let lost = worker.assignment().await;
    let register = Register {
        previous_worker_id: worker.registered.worker_id.clone(),
        ..registration(&["h"], 16)
    };
    let started = Instant::now();
    let mut again = RawWorker::open(&bench.server.url, register).await.unwrap();
    let assignment = again.assignment().await;
    assert!(started.elapsed() < LEASE / 4, "it waited for the lease");
    assert_eq!((assignment.attempt, assignment.charged_attempts), (2, 0));
    // The assignment did arrive, but the worker's registration did not name it: its results are
    // stale.
    assert_eq!(
        again.settle(&lost, success("\"late\"")).await,
        ResultStatus::Stale
    );
    again.settle(&assignment, success("1")).await;
    assert_eq!(again.settle(&lost, released()).await, ResultStatus::Stale);
    let task = bench.finished(&id).await;
    assert_eq!(
        step(&task, "only").attempts[0].outcome(),
        AttemptOutcome::Released
    );
    assert_eq!(step(&task, "only").result_json, "1");
}

/// The registering server died before it gave anything back, or the search for silent workers came
/// first. Either way an assignment that the worker does not hold is released, not lost.
#[tokio::test]
async fn ended_attempts_are_not_lost_with_their_worker() {
    let mut bench = Bench::with(ONE).await;
    let worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/one", "{}").await;
    let mut other = RawWorker::connect(&bench.server.url, &["h"]).await;
    let again = NewWorker {
        worker_id: uuid::Uuid::new_v4(),
        server_id: uuid::Uuid::new_v4(),
        registration: Registration {
            name: "raw".into(),
            build_id: String::new(),
            namespaces: Vec::new(),
            handlers: vec!["h".into()],
            max_concurrent_steps: 1,
            max_assignment_bytes: 4 << 20,
            labels: "{}".into(),
            previous: Some(worker.registered.worker_id.parse().unwrap()),
            held: Vec::new(),
        },
    };
    let db = Db::new(bench.db.url(), SCHEMA).unwrap();
    store::worker::register(&db, &again, Duration::from_secs(10))
        .await
        .unwrap();
    let assignment = other.assignment().await;
    other.settle(&assignment, success("1")).await;
    let task = bench.finished(&id).await;
    assert_eq!(
        step(&task, "only").attempts[0].outcome(),
        AttemptOutcome::Released
    );
}

#[tokio::test]
async fn step_answered_by_another_worker_frees_the_slot_of_its_holder() {
    let mut bench = Bench::with(ONE).await;
    let other = TestServer::start(&bench.db).await;
    for url in [bench.server.url.clone(), other.url.clone()] {
        let mut holder = RawWorker::open(&bench.server.url, registration(&["h"], 1))
            .await
            .unwrap();
        bench.submit("t/one", "{}").await;
        let assignment = holder.assignment().await;
        let mut answering = RawWorker::connect(&url, &["something.else"]).await;
        let started = Instant::now();
        assert_eq!(
            answering.settle(&assignment, success("1")).await,
            ResultStatus::Accepted
        );
        let cancelled = holder.cancelled().await;
        assert_eq!(
            (cancelled.reason(), cancelled.lease_token),
            (LeaseLost, assignment.lease_token.clone())
        );
        // The holder may have sent the same answer at that moment.
        assert_eq!(
            holder.settle(&assignment, success("2")).await,
            ResultStatus::Accepted
        );
        let next = bench.submit("t/one", "{}").await;
        let assignment = holder.assignment().await;
        assert_eq!(assignment.task_id, next);
        assert!(
            started.elapsed() < Duration::from_secs(20),
            "its slot was taken for {:?}",
            started.elapsed()
        );
        holder.settle(&assignment, success("3")).await;
        holder.drain().await;
        holder.close();
        assert!(matches!(holder.hear().await, Ok(None)));
    }
}

#[tokio::test]
async fn connection_superseded_by_a_new_register_is_closed() {
    let bench = Bench::new().await;
    let other = TestServer::start(&bench.db).await;
    let mut old = RawWorker::connect(&bench.server.url, &["h"]).await;
    let register = Register {
        previous_worker_id: old.registered.worker_id.clone(),
        ..registration(&["h"], 16)
    };
    let _new = RawWorker::open(&other.url, register).await.unwrap();
    assert_eq!(old.hear().await.unwrap_err().code(), tonic::Code::Aborted);
}
