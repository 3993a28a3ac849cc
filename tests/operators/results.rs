//! The inputs of steps after a resolved, a skipped and a retried one: cases 10 and 11, and a step's
//! second life.

use tasker::proto::{self, AttemptOutcome, ResultStatus, StepState, TaskState};

use crate::{
    support::{
        invariants::invariants,
        server::{Bench, state, step},
        worker::{RawWorker, permanent, retryable, success},
    },
    verb::{BY_HAND, Verb, followed, refused},
};

/// `c` gets the results of its parent `b` and its grandparent `a`; `d` is another branch.
const BRANCHES: &str = "
    {task_name: branches, namespace: t, version: 1.0.0, step_templates: [
      {name: a, handler_class: h, default_retry_limit: 2, backoff: {base_seconds: 0.01}},
      {name: b, handler_class: h, depends_on_steps: [a]},
      {name: c, handler_class: h, depends_on_steps: [b]},
      {name: d, handler_class: other}]}";

async fn branches() -> (Bench, RawWorker, String) {
    let mut bench = Bench::with(BRANCHES).await;
    bench.circuits_off().await;
    let worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/branches", "{}").await;
    (bench, worker, id)
}

#[tokio::test]
async fn case_10_children_of_a_resolved_step_run_with_its_result() {
    let (mut bench, mut worker, id) = branches().await;
    let a = worker.assignment().await;
    worker.settle(&a, permanent("no", "NO")).await;
    followed(&mut bench, Verb::ResolveStep, &id, "a").await;
    let b = worker.assignment().await;
    assert_eq!(
        (b.step_name.as_str(), b.results_json["a"].as_str()),
        ("b", BY_HAND)
    );
    worker.settle(&b, success("2")).await;
    let c = worker.assignment().await;
    assert_eq!(c.results_json["a"], BY_HAND, "so does a grandchild");
    worker.settle(&c, success("3")).await;
    followed(&mut bench, Verb::Skip, &id, "d").await;
    let task = bench.finished(&id).await;
    assert_eq!(state(&task), TaskState::Complete);
    let a = step(&task, "a");
    assert_eq!(
        (a.state(), a.result_json.as_str(), a.set_by.as_str()),
        (StepState::ResolvedManually, BY_HAND, "ann")
    );
    assert_eq!(
        a.attempts[0].error.as_ref().unwrap().error_code,
        "NO",
        "what went wrong is still told"
    );
    invariants(&bench.db.connect().await).await;
}

#[tokio::test]
async fn case_11_retried_step_lets_the_task_complete() {
    let (mut bench, mut worker, id) = branches().await;
    for _ in 0..2 {
        let a = worker.assignment().await;
        worker.settle(&a, retryable("down", None)).await;
    }
    followed(&mut bench, Verb::Skip, &id, "d").await;
    let failed = bench.finished(&id).await;
    assert_eq!(
        (state(&failed), failed.task.unwrap().failed_step.as_str()),
        (TaskState::Error, "a")
    );
    followed(&mut bench, Verb::Retry, &id, "").await;
    let a = worker.assignment().await;
    assert_eq!((a.step_name.as_str(), a.attempt), ("a", 3));
    let going = bench.get(&id).await.task.unwrap();
    assert_eq!(
        (going.state(), going.failed_step.as_str(), going.ended_at),
        (TaskState::InProgress, "", None)
    );
    worker.settle(&a, success("1")).await;
    for _ in 0..2 {
        let next = worker.assignment().await;
        assert_eq!(next.results_json["a"], "1");
        worker.settle(&next, success("2")).await;
    }
    let task = bench.finished(&id).await;
    assert_eq!(state(&task), TaskState::Complete);
    let outcomes: Vec<AttemptOutcome> = step(&task, "a")
        .attempts
        .iter()
        .map(proto::Attempt::outcome)
        .collect();
    use AttemptOutcome as O;
    assert_eq!(
        outcomes,
        [O::RetryableError, O::RetryableError, O::Succeeded],
        "its first life is in the history"
    );
    invariants(&bench.db.connect().await).await;
}

#[tokio::test]
async fn retry_adds_one_attempt_and_a_fresh_retry_all() {
    let (mut bench, mut worker, id) = branches().await;
    followed(&mut bench, Verb::Skip, &id, "d").await;
    let mut fails = async |times: i32, bench: &mut Bench| {
        for _ in 0..times {
            let a = worker.assignment().await;
            worker.settle(&a, retryable("down", None)).await;
        }
        let task = bench.finished(&id).await;
        assert_eq!(state(&task), TaskState::Error);
        step(&task, "a").attempts.len()
    };
    assert_eq!(fails(2, &mut bench).await, 2);
    followed(&mut bench, Verb::Retry, &id, "").await;
    assert_eq!(fails(1, &mut bench).await, 3);
    let request = proto::RetryTaskRequest {
        task_id: id.clone(),
        step: "a".into(),
        fresh_attempts: true,
        by: "ann".into(),
        reason: "again".into(),
    };
    bench.client.tasks.retry_task(request).await.unwrap();
    assert_eq!(fails(2, &mut bench).await, 5);
    invariants(&bench.db.connect().await).await;
}

#[tokio::test]
async fn children_of_a_skipped_step_receive_null() {
    let (mut bench, mut worker, id) = branches().await;
    let a = worker.assignment().await;
    worker.settle(&a, permanent("no", "NO")).await;
    followed(&mut bench, Verb::Skip, &id, "a").await;
    let b = worker.assignment().await;
    assert_eq!(
        (b.step_name.as_str(), b.results_json["a"].as_str()),
        ("b", "null")
    );
    invariants(&bench.db.connect().await).await;
}

#[tokio::test]
async fn steps_set_before_their_turn_are_not_run() {
    let (mut bench, mut worker, id) = branches().await;
    let a = worker.assignment().await;
    followed(&mut bench, Verb::ResolveStep, &id, "b").await;
    followed(&mut bench, Verb::Skip, &id, "d").await;
    let task = bench.get(&id).await;
    assert_eq!(
        step(&task, "c").state(),
        StepState::InProgress,
        "its parent is done, by an operator's word"
    );
    let c = worker.assignment().await;
    assert_eq!(
        (c.step_name.as_str(), c.results_json["b"].as_str()),
        ("c", BY_HAND)
    );
    assert_eq!(
        worker.settle(&c, success("3")).await,
        ResultStatus::Accepted
    );
    assert_eq!(
        state(&bench.get(&id).await),
        TaskState::InProgress,
        "the first step still runs"
    );
    assert_eq!(
        worker.settle(&a, success("1")).await,
        ResultStatus::Accepted
    );
    assert_eq!(state(&bench.finished(&id).await), TaskState::Complete);
    invariants(&bench.db.connect().await).await;
}

#[tokio::test]
async fn remaining_failure_after_a_resolve_fails_the_task() {
    let mut bench = Bench::with(
        "{task_name: two, namespace: t, version: 1.0.0, step_templates: [
          {name: a, handler_class: h}, {name: b, handler_class: h}, {name: c, handler_class: h, depends_on_steps: [a]}]}",
    )
    .await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/two", "{}").await;
    for _ in 0..2 {
        let assignment = worker.assignment().await;
        let code = assignment.step_name.to_uppercase();
        worker.settle(&assignment, permanent("no", &code)).await;
    }
    assert_eq!(state(&bench.finished(&id).await), TaskState::Error);
    followed(&mut bench, Verb::ResolveStep, &id, "a").await;
    let c = worker.assignment().await;
    assert_eq!(c.step_name, "c");
    worker.settle(&c, success("1")).await;
    let task = bench.finished(&id).await.task.unwrap();
    assert_eq!(
        (task.state(), task.failed_step.as_str()),
        (TaskState::Error, "b")
    );
    assert_eq!(task.error.unwrap().error_code, "B");
    refused(&mut bench, Verb::RetryStep, &id, "a", "resolved_manually").await;
    followed(&mut bench, Verb::Skip, &id, "b").await;
    assert_eq!(state(&bench.finished(&id).await), TaskState::Complete);
    invariants(&bench.db.connect().await).await;
}

#[tokio::test]
async fn second_result_for_a_resolved_step_is_refused() {
    let (mut bench, _worker, id) = branches().await;
    let resolve = |result: &str| proto::ResolveTaskRequest {
        task_id: id.clone(),
        step: "b".into(),
        result_json: result.into(),
        by: "ann".into(),
        reason: "why".into(),
    };
    bench.client.tasks.resolve_task(resolve("")).await.unwrap();
    bench
        .client
        .tasks
        .resolve_task(resolve("null"))
        .await
        .unwrap();
    let status = bench
        .client
        .tasks
        .resolve_task(resolve("1"))
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    assert!(
        status.message().contains("resolved_manually"),
        "{}",
        status.message()
    );
    assert_eq!(step(&bench.get(&id).await, "b").result_json, "null");
    invariants(&bench.db.connect().await).await;
}
