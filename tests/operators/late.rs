//! Results that arrive while the task is paused, cancelled, retried, or over.

use std::time::Duration;

use tasker::proto::{CancelReason, ResultStatus, StepState, TaskState};

use crate::{
    support::{
        invariants::invariants,
        server::{Bench, state, step},
        worker::{RawWorker, permanent, retryable, success},
    },
    verb::{Verb, followed, next_of, rows, say},
};

const CHAIN: &str = "
    {task_name: chain, namespace: t, version: 1.0.0, step_templates: [
      {name: a, handler_class: h, backoff: {base_seconds: 0.01}}, {name: b, handler_class: h, depends_on_steps: [a]}]}";

async fn chain() -> (Bench, RawWorker, String) {
    let mut bench = Bench::with(CHAIN).await;
    bench.circuits_off().await;
    let worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/chain", "{}").await;
    (bench, worker, id)
}

#[tokio::test]
async fn running_step_of_a_paused_task_continues_to_its_end() {
    let (mut bench, mut worker, id) = chain().await;
    let a = worker.assignment().await;
    let paused = followed(&mut bench, Verb::Pause, &id, "").await;
    assert_eq!(
        (paused.paused_by.as_str(), paused.pause_reason.as_str()),
        ("ann", "a test")
    );
    assert_eq!(
        worker.settle(&a, success("1")).await,
        ResultStatus::Accepted
    );
    worker.hears_nothing(Duration::from_millis(500)).await;
    let task = bench.get(&id).await;
    assert_eq!(
        (step(&task, "a").state(), step(&task, "b").state()),
        (StepState::Complete, StepState::Ready)
    );
    followed(&mut bench, Verb::Resume, &id, "").await;
    let b = worker.assignment().await;
    worker.settle(&b, success("2")).await;
    assert_eq!(state(&bench.finished(&id).await), TaskState::Complete);
    invariants(&bench.db.connect().await).await;
}

#[tokio::test]
async fn failed_or_lost_step_of_a_paused_task_waits_for_the_resume() {
    for lost in [false, true] {
        let (mut bench, mut worker, id) = chain().await;
        let a = worker.assignment().await;
        followed(&mut bench, Verb::Pause, &id, "").await;
        if lost {
            worker.drain().await;
            worker
                .answer(&a.lease_token, crate::support::worker::released())
                .await;
        } else {
            worker.settle(&a, retryable("down", None)).await;
            // Otherwise this worker could get the step again.
            worker.drain().await;
        }
        let mut second = RawWorker::connect(&bench.server.url, &["h"]).await;
        second.hears_nothing(Duration::from_millis(700)).await;
        invariants(&bench.db.connect().await).await;
        followed(&mut bench, Verb::Resume, &id, "").await;
        let again = second.assignment().await;
        assert_eq!(
            (again.step_name.as_str(), again.attempt),
            ("a", 2),
            "lost: {lost}"
        );
        invariants(&bench.db.connect().await).await;
    }
}

#[tokio::test]
async fn step_of_a_dead_worker_in_a_paused_task_stays_paused() {
    let (mut bench, mut worker, id) = chain().await;
    worker.assignment().await;
    followed(&mut bench, Verb::Pause, &id, "").await;
    drop(worker);
    let mut second = RawWorker::connect(&bench.server.url, &["h"]).await;
    // Longer than a lease.
    second.hears_nothing(Duration::from_secs(3)).await;
    assert_eq!(step(&bench.get(&id).await, "a").state(), StepState::Ready);
    invariants(&bench.db.connect().await).await;
    followed(&mut bench, Verb::Resume, &id, "").await;
    assert_eq!(second.assignment().await.attempt, 2);
}

#[tokio::test]
async fn result_for_a_cancelled_task_is_stale() {
    let (mut bench, mut worker, id) = chain().await;
    let a = worker.assignment().await;
    followed(&mut bench, Verb::Pause, &id, "").await;
    let task = followed(&mut bench, Verb::Cancel, &id, "").await;
    assert_eq!(
        (task.state(), task.paused_at),
        (TaskState::Cancelled, None),
        "a task that is over is not paused"
    );
    assert_eq!(
        worker.cancelled().await.reason(),
        CancelReason::TaskCancelled
    );
    let before = rows(&bench, &id).await;
    assert_eq!(worker.settle(&a, success("1")).await, ResultStatus::Stale);
    assert_eq!(rows(&bench, &id).await, before);
    invariants(&bench.db.connect().await).await;
}

#[tokio::test]
async fn repeated_failure_has_no_effect_on_the_retried_step() {
    let (mut bench, mut worker, id) = chain().await;
    let first = worker.assignment().await;
    worker.settle(&first, permanent("no", "NO")).await;
    say(&mut bench.client, Verb::Retry, &id, "").await.unwrap();
    let second = next_of(&mut worker, &id).await;
    let before = rows(&bench, &id).await;
    // A copy of the applied answer, under the lease that is over.
    assert_eq!(
        worker.settle(&first, permanent("no", "NO")).await,
        ResultStatus::Accepted
    );
    assert_eq!(rows(&bench, &id).await, before);
    assert_eq!(
        worker.settle(&second, success("1")).await,
        ResultStatus::Accepted
    );
    let b = next_of(&mut worker, &id).await;
    worker.settle(&b, success("2")).await;
    assert_eq!(state(&bench.finished(&id).await), TaskState::Complete);
    invariants(&bench.db.connect().await).await;
}
