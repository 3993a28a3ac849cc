//! Cancelling a task: case 12.

use tasker::proto::{AttemptOutcome, CancelReason, ResultStatus, StepState, TaskState};

use crate::support::{
    server::{Bench, state, step},
    worker::{RawWorker, retryable, success},
};

const CHAIN: &str = "
task_name: chain
namespace: t
version: 1.0.0
step_templates:
  - {name: a, handler_class: h, backoff: {base_seconds: 60}}
  - {name: b, handler_class: h, depends_on_steps: [a]}
";

#[tokio::test]
async fn case_12_cancel_reaches_the_handler_and_its_late_result_is_stale() {
    let mut bench = Bench::with(CHAIN).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/chain", "{}").await;
    let running = worker.assignment().await;
    let cancelled = bench.cancel(&id).await.unwrap();
    assert_eq!(cancelled.state(), TaskState::Cancelled);
    assert_eq!(
        (
            cancelled.cancelled_by.as_str(),
            cancelled.cancel_reason.as_str()
        ),
        ("test", "why")
    );
    let told = worker.cancelled().await;
    assert_eq!(
        (told.lease_token.as_str(), told.reason()),
        (running.lease_token.as_str(), CancelReason::TaskCancelled)
    );
    assert_eq!(
        (told.task_id.as_str(), told.step_name.as_str()),
        (id.as_str(), "a")
    );
    let before = bench.get(&id).await;
    assert_eq!(
        worker.settle(&running, success("1")).await,
        ResultStatus::Stale
    );
    let mut after = bench.get(&id).await;
    // The attempt has a note of the late answer, and nothing else changes.
    let attempt = &mut after
        .steps
        .iter_mut()
        .find(|step| step.name == "a")
        .unwrap()
        .attempts[0];
    attempt.late_result_at = None;
    attempt.late_outcome = AttemptOutcome::Unspecified.into();
    assert_eq!(before, after);
    assert_eq!(step(&after, "a").state(), StepState::Cancelled);
    assert_eq!(
        step(&after, "a").attempts[0].outcome(),
        AttemptOutcome::Cancelled
    );
    assert_eq!(step(&after, "b").state(), StepState::Cancelled);
    worker
        .hears_nothing(std::time::Duration::from_millis(300))
        .await;
}

#[tokio::test]
async fn repeated_cancel_is_idempotent_and_cancel_of_an_ended_task_is_refused() {
    let mut bench = Bench::with(CHAIN).await;
    let id = bench.submit("t/chain", "{}").await;
    let first = bench.cancel(&id).await.unwrap();
    assert_eq!(bench.cancel(&id).await.unwrap(), first);

    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let done = bench.submit("t/chain", "{}").await;
    for _ in 0..2 {
        let assignment = worker.assignment().await;
        worker.settle(&assignment, success("1")).await;
    }
    assert_eq!(state(&bench.finished(&done).await), TaskState::Complete);
    let status = bench.cancel(&done).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    assert!(status.message().contains("complete"), "{status:?}");

    let status = bench
        .cancel("00000000-0000-7000-8000-000000000000")
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound);
}

#[tokio::test]
async fn cancel_ends_a_step_that_waits_to_retry() {
    let mut bench = Bench::with(CHAIN).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/chain", "{}").await;
    let running = worker.assignment().await;
    worker.settle(&running, retryable("later", None)).await;
    assert_eq!(
        step(&bench.get(&id).await, "a").state(),
        StepState::WaitingForRetry
    );
    bench.cancel(&id).await.unwrap();
    let task = bench.get(&id).await;
    assert_eq!(
        (state(&task), step(&task, "a").state()),
        (TaskState::Cancelled, StepState::Cancelled)
    );
    assert_eq!(
        step(&task, "a").attempts.len(),
        1,
        "no attempt ran when it was cancelled"
    );
    let db = bench.db.connect().await;
    assert_eq!(
        db.query_one("SELECT count(*) FROM queue", &[])
            .await
            .unwrap()
            .get::<_, i64>(0),
        0
    );
}
