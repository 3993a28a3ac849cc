//! Steps that an operator retried, resolved or skipped: the ledger accounts for all of their time,
//! including their first life.

use std::time::Duration;

use tasker::proto::{self, TaskState};

use crate::{
    oracle::Oracle,
    performance,
    support::{
        invariants::invariants,
        server::{Bench, state},
        worker::{RawWorker, permanent, success},
    },
};

const YAML: &str = "
    {task_name: lives, namespace: t, version: 1.0.0, step_templates: [
      {name: a, handler_class: h}, {name: b, handler_class: h, depends_on_steps: [a]},
      {name: c, handler_class: h, depends_on_steps: [b]}, {name: d, handler_class: none, depends_on_steps: [c]}]}";
/// The time that an operator takes to act.
const THINKS: Duration = Duration::from_millis(300);

fn who() -> (String, String) {
    ("ann".into(), "a test".into())
}

/// The end of each step, and its attempts.
fn steps_are_counted(found: &proto::GetPerformanceResponse) {
    let steps = &found.templates[0].steps;
    let counts = |i: usize| {
        (
            steps[i].complete,
            steps[i].resolved,
            steps[i].skipped,
            steps[i].charged_attempts,
            steps[i].free_attempts,
        )
    };
    assert_eq!(
        [counts(0), counts(1), counts(2), counts(3)],
        [
            (1, 0, 0, 2, 0),
            (0, 1, 0, 1, 0),
            (1, 0, 0, 0, 0),
            (0, 0, 1, 0, 0)
        ]
    );
}

#[tokio::test]
async fn time_until_a_manual_retry_counts_as_between_attempts_and_keeps_all_attempts() {
    let mut bench = Bench::with(YAML).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/lives", "{}").await;
    for _ in 0..2 {
        let a = worker.assignment().await;
        worker.settle(&a, permanent("no", "NO")).await;
        tokio::time::sleep(THINKS).await;
        let (by, reason) = who();
        let retry = proto::RetryTaskRequest {
            task_id: id.clone(),
            step: "a".into(),
            fresh_attempts: true,
            by,
            reason,
        };
        bench.client.tasks.retry_task(retry).await.unwrap();
    }
    let a = worker.assignment().await;
    worker.settle(&a, success("1")).await;
    let b = worker.assignment().await;
    worker.settle(&b, permanent("no", "NO")).await;
    tokio::time::sleep(THINKS).await;
    let (by, reason) = who();
    let resolve = proto::ResolveTaskRequest {
        task_id: id.clone(),
        step: "b".into(),
        result_json: "2".into(),
        by,
        reason,
    };
    bench.client.tasks.resolve_task(resolve).await.unwrap();
    let c = worker.assignment().await;
    worker.settle(&c, success("3")).await;
    let (by, reason) = who();
    bench
        .client
        .tasks
        .skip_step(proto::SkipStepRequest {
            task_id: id.clone(),
            step: "d".into(),
            by,
            reason,
        })
        .await
        .unwrap();
    assert_eq!(state(&bench.finished(&id).await), TaskState::Complete);
    let db = bench.db.connect().await;
    let found = performance(&mut bench.client, "t", 0.0).await;
    let all = Oracle::read(&db).await.check(&found, 0.0);
    assert!(all.backoff >= 3 * 300_000, "{all:?}");
    steps_are_counted(&found);
    // The path passes through the steps that were set, and tiles the task's time.
    let whole = found.templates[0].ledger.as_ref().unwrap().wall;
    assert_eq!(whole, found.templates[0].elapsed.as_ref().unwrap().mean);
    invariants(&db).await;
}
