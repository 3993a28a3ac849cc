//! Tasks that start at a later time.

use std::time::{Duration, Instant, SystemTime};

use tasker::proto::{self, StepState, TaskState, WaitCause};
use tonic::Code;

use crate::{
    support::{
        TestDb,
        invariants::invariants,
        process::ServerProcess,
        server::{Bench, get, register, state, step, submission},
        worker::{RawWorker, success},
    },
    verb::{Verb, followed},
};

const ONE: &str =
    "{task_name: one, namespace: t, version: 1.0.0, step_templates: [{name: a, handler_class: h}]}";

#[expect(clippy::disallowed_methods, reason = "a client says its own time")]
fn in_time(time: Duration) -> Option<prost_types::Timestamp> {
    Some((SystemTime::now() + time).into())
}

fn later(time: Duration) -> proto::SubmitTaskRequest {
    proto::SubmitTaskRequest {
        not_before: in_time(time),
        ..submission("t/one", "{}")
    }
}

#[tokio::test]
async fn not_before_holds_over_a_crash_and_is_explained() {
    let db = TestDb::new().await;
    let mut server = ServerProcess::start(db.url());
    let mut client = tasker_worker::client::Client::connect(&server.url)
        .await
        .unwrap();
    register(&mut client, ONE).await;
    let submitted = Instant::now();
    let id = client
        .tasks
        .submit_task(later(Duration::from_secs(4)))
        .await
        .unwrap()
        .into_inner()
        .task_id;
    let explained = client
        .tasks
        .explain_task(proto::ExplainTaskRequest {
            task_id: id.clone(),
        })
        .await
        .unwrap()
        .into_inner();
    assert!(
        explained.steps[0]
            .waits
            .iter()
            .any(|wait| wait.cause() == WaitCause::NotBefore),
        "{explained:#?}"
    );
    let task = get(&mut client, &id).await;
    assert_eq!(
        (state(&task), step(&task, "a").state()),
        (TaskState::Pending, StepState::Ready)
    );
    server.kill();
    let server = ServerProcess::start_at(db.url(), server.address());
    let mut worker = RawWorker::connect(&server.url, &["h"]).await;
    worker.hears_nothing(Duration::from_millis(1_500)).await;
    let a = worker.assignment().await;
    let waited = submitted.elapsed();
    assert!(
        waited >= Duration::from_millis(3_900) && waited < Duration::from_secs(30),
        "{waited:?}"
    );
    worker.settle(&a, success("1")).await;
    invariants(&db.connect().await).await;
}

#[tokio::test]
async fn not_before_in_the_past_is_ignored_and_in_years_refused() {
    let mut bench = Bench::with(ONE).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let past = Some(prost_types::Timestamp {
        seconds: 1,
        nanos: 0,
    });
    bench
        .client
        .tasks
        .submit_task(proto::SubmitTaskRequest {
            not_before: past,
            ..submission("t/one", "{}")
        })
        .await
        .unwrap();
    worker.assignment().await;
    let day = Duration::from_secs(86_400);
    bench
        .client
        .tasks
        .submit_task(later(day * 365))
        .await
        .unwrap();
    let status = bench
        .client
        .tasks
        .submit_task(later(day * 367))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(
        status
            .message()
            .starts_with("not_before: more than a year ahead"),
        "{}",
        status.message()
    );
    invariants(&bench.db.connect().await).await;
}

#[tokio::test]
async fn not_before_survives_a_pause_and_ends_by_an_order() {
    let mut bench = Bench::with(ONE).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let mut submit = async |time| {
        bench
            .client
            .tasks
            .submit_task(later(time))
            .await
            .unwrap()
            .into_inner()
            .task_id
    };
    let soon = submit(Duration::from_secs(2)).await;
    let never = submit(Duration::from_secs(3_600)).await;
    followed(&mut bench, Verb::Pause, &soon, "").await;
    followed(&mut bench, Verb::Resume, &soon, "").await;
    worker.hears_nothing(Duration::from_millis(1_000)).await;
    assert_eq!(worker.assignment().await.task_id, soon);
    followed(&mut bench, Verb::Skip, &never, "a").await;
    assert_eq!(state(&bench.finished(&never).await), TaskState::Complete);
    invariants(&bench.db.connect().await).await;
}

#[tokio::test]
async fn repeated_submit_with_another_not_before_returns_the_first_task() {
    let mut bench = Bench::with(ONE).await;
    let keyed = |priority: i32, time: Option<Duration>| proto::SubmitTaskRequest {
        idempotency_key: "k".into(),
        priority,
        not_before: time.and_then(in_time),
        ..submission("t/one", "{}")
    };
    let hours = |hours: u64| Some(Duration::from_secs(hours * 3_600));
    let first = bench
        .client
        .tasks
        .submit_task(keyed(1, hours(2)))
        .await
        .unwrap()
        .into_inner();
    let stored = get(&mut bench.client, &first.task_id)
        .await
        .task
        .unwrap()
        .not_before;
    for again in [hours(2), hours(3), None] {
        let repeated = bench
            .client
            .tasks
            .submit_task(keyed(1, again))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(
            (&repeated.task_id, repeated.created),
            (&first.task_id, false),
            "{again:?}"
        );
    }
    let list = proto::SubmitTasksRequest {
        tasks: vec![keyed(1, hours(4))],
    };
    let listed = bench
        .client
        .tasks
        .submit_tasks(list)
        .await
        .unwrap()
        .into_inner()
        .tasks;
    assert_eq!(
        (&listed[0].task_id, listed[0].created),
        (&first.task_id, false)
    );
    let kept = get(&mut bench.client, &first.task_id)
        .await
        .task
        .unwrap()
        .not_before;
    assert_eq!(kept, stored, "the first task keeps its time");
    // Every other field is content.
    let other = bench
        .client
        .tasks
        .submit_task(keyed(2, hours(2)))
        .await
        .unwrap_err();
    assert_eq!(other.code(), Code::AlreadyExists);
    invariants(&bench.db.connect().await).await;
}
