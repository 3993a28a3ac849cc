//! The end of `tasker server`: workers are notified, results in flight are still accepted, and the
//! drain is bounded.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tasker::proto::{AttemptOutcome, ResultStatus, TaskState, work_response::Message as Hears};
use tasker_worker::client::Client;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::{
    Listening, server,
    support::{
        TestDb,
        server::{finished, get, register, state, step, submission, submit},
        worker::{RawWorker, registration, success},
    },
};

const YAML: &str = "
    {task_name: two, namespace: ending, version: 1.0.0, step_templates: [
      {name: first, handler_class: h}, {name: second, handler_class: h, depends_on_steps: [first]}]}";
const NAME: &str = "ending/two";

/// A server with the template, and a worker that has the first step of a task.
async fn with_a_step_in_flight(
    db: &TestDb,
    drain_seconds: &str,
) -> (Listening, Client, RawWorker, String) {
    let server = Listening::start(server(db.url(), &["--drain-seconds", drain_seconds])).await;
    let mut client = Client::connect(&server.url).await.unwrap();
    register(&mut client, YAML).await;
    let worker = RawWorker::connect(&server.url, &["h"]).await;
    let task_id = submit(&mut client, NAME, "{}").await;
    (server, client, worker, task_id)
}

#[tokio::test]
async fn sigterm_accepts_results_in_flight_and_assigns_no_step() {
    let db = TestDb::new().await;
    let (server, mut client, mut worker, task_id) = with_a_step_in_flight(&db, "15").await;
    let assignment = worker.assignment().await;
    server.signal(Signal::TERM);
    let Ok(Some(Hears::Draining(draining))) = worker.hear().await else {
        panic!("expected `draining`")
    };
    assert_eq!(draining.grace.map(|d| d.seconds), Some(15));

    let refused = client
        .tasks
        .submit_task(submission(NAME, "{}"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    let channel = tonic::transport::Endpoint::new(server.url.clone())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let health = HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(health.status(), ServingStatus::NotServing);
    assert_eq!(
        state(&get(&mut client, &task_id).await),
        TaskState::InProgress,
        "reads go on"
    );

    assert_eq!(
        worker.settle(&assignment, success("1")).await,
        ResultStatus::Accepted
    );
    let answered = Instant::now();
    let end = worker.hear().await.unwrap_err();
    assert_eq!(
        end.code(),
        Code::Unavailable,
        "the second step is not for this server: {end}"
    );
    assert_eq!(server.end().await, Some(0));
    assert!(
        answered.elapsed() < Duration::from_secs(14),
        "stopped by a second signal"
    );

    let again = Listening::start(super::server(db.url(), &[])).await;
    let mut client = Client::connect(&again.url).await.unwrap();
    let mut worker = RawWorker::connect(&again.url, &["h"]).await;
    let second = worker.assignment().await;
    assert_eq!(
        (
            second.step_name.as_str(),
            second.attempt,
            &*second.results_json["first"]
        ),
        ("second", 1, "1")
    );
    assert_eq!(
        worker.settle(&second, success("2")).await,
        ResultStatus::Accepted
    );
    let task = finished(&mut client, &task_id).await;
    assert_eq!(state(&task), TaskState::Complete);
    assert_eq!(step(&task, "first").attempts.len(), 1);
}

#[tokio::test]
async fn drain_ends_at_its_limit_and_the_step_continues() {
    let db = TestDb::new().await;
    let (server, _client, mut worker, task_id) = with_a_step_in_flight(&db, "1").await;
    let assignment = worker.assignment().await;
    let told = Instant::now();
    server.signal(Signal::TERM);
    assert_eq!(server.end().await, Some(0));
    let took = told.elapsed();
    assert!(
        took > Duration::from_secs(1) && took < Duration::from_secs(30),
        "{took:?}"
    );

    // The worker has gone on with the step and answers to another server.
    let again = Listening::start(super::server(db.url(), &[])).await;
    let mut client = Client::connect(&again.url).await.unwrap();
    let back = tasker::proto::Register {
        previous_worker_id: worker.registered.worker_id.clone(),
        held_leases: vec![assignment.lease_token.clone()],
        ..registration(&["h"], 1)
    };
    let mut worker = RawWorker::open(&again.url, back).await.unwrap();
    assert_eq!(
        worker.registered.kept_leases,
        [assignment.lease_token.as_str()]
    );
    assert_eq!(
        worker.settle(&assignment, success("1")).await,
        ResultStatus::Accepted
    );
    let first = get(&mut client, &task_id).await;
    let outcomes: Vec<_> = step(&first, "first")
        .attempts
        .iter()
        .map(tasker::proto::Attempt::outcome)
        .collect();
    assert_eq!(outcomes, [AttemptOutcome::Succeeded]);
}

#[tokio::test]
async fn idle_server_ends_immediately_with_clients_connected() {
    for signal in [Signal::TERM, Signal::INT] {
        let db = TestDb::new().await;
        let server = Listening::start(server(db.url(), &["--drain-seconds", "600"])).await;
        let _idle = RawWorker::connect(&server.url, &["h"]).await;
        let _client = Client::connect(&server.url).await.unwrap();
        let told = Instant::now();
        server.signal(signal);
        assert_eq!(server.end().await, Some(0));
        assert!(
            told.elapsed() < Duration::from_secs(30),
            "{:?}",
            told.elapsed()
        );
    }
}

#[tokio::test]
async fn second_signal_ends_the_server_immediately() {
    let db = TestDb::new().await;
    let (server, _client, mut worker, _task) = with_a_step_in_flight(&db, "600").await;
    worker.assignment().await;
    server.signal(Signal::TERM);
    assert!(matches!(worker.hear().await, Ok(Some(Hears::Draining(_)))));
    server.signal(Signal::TERM);
    assert_eq!(server.end().await, Some(130));
}
