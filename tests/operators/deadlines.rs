//! A task's deadline: past it no step starts, the workers of running steps get a cancel, and the
//! task ends as failed.

use std::time::{Duration, SystemTime};

use tasker::proto::{
    AttemptOutcome, CancelReason, GetTaskResponse, ResultStatus, StepState, TaskState,
};

use crate::{
    support::{
        invariants::invariants,
        server::{Bench, TestServer, eventually, finished, get, state, step},
        worker::{RawWorker, permanent, retryable, success},
    },
    verb::{Verb, followed, refused, rows},
};

fn template(seconds: f64, steps: &str) -> String {
    format!(
        "{{task_name: brief, namespace: t, version: 1.0.0, timeout_seconds: {seconds}, {steps}}}"
    )
}

const CHAIN: &str = "step_templates: [{name: a, handler_class: h, backoff: {base_seconds: 60}},
                                      {name: b, handler_class: h, depends_on_steps: [a]}]";

fn expired(task: &GetTaskResponse) {
    assert_eq!(state(task), TaskState::Error);
    let whole = task.task.as_ref().unwrap();
    assert_eq!(
        (
            whole.failed_step.as_str(),
            whole.error.as_ref().unwrap().error_code.as_str()
        ),
        ("", "DEADLINE_EXCEEDED")
    );
    assert_eq!(
        whole.error.as_ref().unwrap().message,
        "the task's deadline passed before its last step was done"
    );
    let (ended, expires) = (whole.ended_at.unwrap(), whole.expires_at.unwrap());
    assert!(SystemTime::try_from(ended).unwrap() >= SystemTime::try_from(expires).unwrap());
}

#[tokio::test]
async fn deadline_notifies_the_running_step_and_starts_nothing() {
    let mut bench = Bench::with(&template(1.0, CHAIN)).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/brief", "{}").await;
    let a = worker.assignment().await;
    let running = bench.get(&id).await;
    let (own, whole) = (
        step(&running, "a").deadline_at.unwrap(),
        running.task.as_ref().unwrap().expires_at.unwrap(),
    );
    assert_eq!(
        own, whole,
        "a step's deadline is never later than its task's"
    );
    assert!(
        Duration::try_from(a.timeout.unwrap()).unwrap() <= Duration::from_secs(1),
        "and its handler knows"
    );
    let told = worker.cancelled().await;
    assert_eq!(
        (told.lease_token.as_str(), told.reason()),
        (a.lease_token.as_str(), CancelReason::TimedOut)
    );
    let task = bench.finished(&id).await;
    expired(&task);
    assert_eq!(step(&task, "a").state(), StepState::Cancelled);
    assert_eq!(
        step(&task, "a").attempts[0].outcome(),
        AttemptOutcome::Cancelled
    );
    assert_eq!(step(&task, "b").state(), StepState::Cancelled);
    let before = rows(&bench, &id).await;
    assert_eq!(worker.settle(&a, success("1")).await, ResultStatus::Stale);
    assert_eq!(rows(&bench, &id).await, before);
    worker.hears_nothing(Duration::from_millis(300)).await;
    invariants(&bench.db.connect().await).await;
}

#[tokio::test]
async fn deadline_ends_waiting_steps_with_the_task() {
    let mut bench = Bench::with(&template(1.0, CHAIN)).await;
    bench.circuits_off().await;
    let ready = bench.submit("t/brief", "{}").await;
    let paused = bench.submit("t/brief", "{}").await;
    followed(&mut bench, Verb::Pause, &paused, "").await;
    for id in [ready, paused] {
        expired(&bench.finished(&id).await);
    }
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    worker.hears_nothing(Duration::from_millis(300)).await;
    let waiting = bench.submit("t/brief", "{}").await;
    let a = worker.assignment().await;
    worker.settle(&a, retryable("later", None)).await;
    let task = bench.finished(&waiting).await;
    expired(&task);
    assert_eq!(step(&task, "a").attempts.len(), 1);
    let db = bench.db.connect().await;
    eventually("no deadline is left over", || async {
        let left = db
            .query_one("SELECT count(*) FROM task_deadlines", &[])
            .await
            .unwrap();
        (left.get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    invariants(&db).await;
}

#[tokio::test]
async fn deadline_of_a_task_that_ended_in_time_is_removed() {
    let mut bench = Bench::with(&template(1.0, CHAIN)).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let complete = bench.submit("t/brief", "{}").await;
    for _ in 0..2 {
        let assignment = worker.assignment().await;
        worker.settle(&assignment, success("1")).await;
    }
    let failed = bench.submit("t/brief", "{}").await;
    let a = worker.assignment().await;
    worker.settle(&a, permanent("no", "NO")).await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(state(&bench.get(&complete).await), TaskState::Complete);
    let task = bench.get(&failed).await;
    assert_eq!(
        (
            state(&task),
            task.task.unwrap().error.unwrap().error_code.as_str()
        ),
        (TaskState::Error, "NO")
    );
    let db = bench.db.connect().await;
    eventually("no deadline is left over", || async {
        let left = db
            .query_one("SELECT count(*) FROM task_deadlines", &[])
            .await
            .unwrap();
        (left.get::<_, i64>(0) == 0).then_some(())
    })
    .await;
    invariants(&db).await;
}

#[tokio::test]
async fn retry_after_the_deadline_is_refused_or_ends_by_it() {
    let mut bench = Bench::with(&template(1.5, CHAIN)).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let (in_time, too_late) = (
        bench.submit("t/brief", "{}").await,
        bench.submit("t/brief", "{}").await,
    );
    for _ in 0..2 {
        let a = worker.assignment().await;
        worker.settle(&a, permanent("no", "NO")).await;
    }
    followed(&mut bench, Verb::Retry, &in_time, "").await;
    worker.assignment().await;
    assert_eq!(
        worker.cancelled().await.reason(),
        CancelReason::TimedOut,
        "the deadline holds for its second life too"
    );
    let task = bench.finished(&in_time).await;
    assert_eq!(state(&task), TaskState::Error);
    assert_eq!(
        task.task.unwrap().error.unwrap().error_code,
        "DEADLINE_EXCEEDED"
    );
    for (verb, step) in [
        (Verb::Retry, ""),
        (Verb::RetryStep, "a"),
        (Verb::Skip, "a"),
        (Verb::ResolveStep, "a"),
    ] {
        refused(&mut bench, verb, &too_late, step, "error").await;
    }
    followed(&mut bench, Verb::Resolve, &too_late, "").await;
    invariants(&bench.db.connect().await).await;
}

#[tokio::test]
async fn deadline_limits_the_planner() {
    let steps = "planner: {handler: p, handler_config: {timeout_seconds: 60}}, step_templates: [{name: a, handler_class: h}]";
    let mut bench = Bench::with(&template(1.0, steps)).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h", "p"]).await;
    let id = bench.submit("t/brief", "{}").await;
    let planner = worker.assignment().await;
    assert_eq!(planner.step_name, "planner");
    assert_eq!(worker.cancelled().await.lease_token, planner.lease_token);
    expired(&bench.finished(&id).await);
    assert_eq!(
        worker.settle(&planner, success("{}")).await,
        ResultStatus::Stale
    );
    invariants(&bench.db.connect().await).await;
}

#[tokio::test]
async fn deadline_that_passes_without_a_server_ends_the_task_at_the_next_start() {
    let db = crate::support::TestDb::new().await;
    let server = TestServer::start(&db).await;
    let mut client = server.client().await;
    crate::support::server::register(&mut client, &template(0.5, CHAIN)).await;
    let id = crate::support::server::submit(&mut client, "t/brief", "{}").await;
    server.stop().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let server = TestServer::start(&db).await;
    let mut client = server.client().await;
    let mut worker = RawWorker::connect(&server.url, &["h"]).await;
    finished(&mut client, &id).await;
    expired(&get(&mut client, &id).await);
    worker.hears_nothing(Duration::from_millis(300)).await;
    invariants(&db.connect().await).await;
}
