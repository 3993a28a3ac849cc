//! Reads: lists and their pages, watches, templates, and the database's own guards.

mod guards;

use std::time::{Duration, SystemTime};

use tasker::proto::{self, ListTasksRequest, SubmitTaskRequest, TaskState, WatchTaskRequest};

use crate::support::{
    server::{Bench, register, submission},
    worker::{RawWorker, permanent, success},
};

const ONE: &str = "
task_name: one
namespace: t
version: 1.0.0
step_templates:
  - {name: only, handler_class: h}
";

async fn list(bench: &mut Bench, request: ListTasksRequest) -> (Vec<String>, String) {
    let page = bench
        .client
        .tasks
        .list_tasks(request)
        .await
        .unwrap()
        .into_inner();
    (
        page.tasks.into_iter().map(|t| t.task_id).collect(),
        page.next_page_token,
    )
}

#[tokio::test]
async fn pages_during_submits_are_complete_without_repetition() {
    let mut bench = Bench::with(ONE).await;
    let mut ids = Vec::new();
    for _ in 0..25 {
        ids.push(bench.submit("t/one", "{}").await);
    }
    ids.reverse();
    let mut request = ListTasksRequest {
        page_size: 10,
        ..Default::default()
    };
    let mut seen = Vec::new();
    loop {
        let (page, token) = list(&mut bench, request.clone()).await;
        assert!(page.len() <= 10);
        seen.extend(page);
        bench.submit("t/one", "{}").await;
        if token.is_empty() {
            break;
        }
        request.page_token = token;
    }
    assert_eq!(seen, ids);
}

#[tokio::test]
async fn exactly_full_page_is_the_last() {
    let mut bench = Bench::with(ONE).await;
    for _ in 0..3 {
        bench.submit("t/one", "{}").await;
    }
    let (page, token) = list(
        &mut bench,
        ListTasksRequest {
            page_size: 3,
            ..Default::default()
        },
    )
    .await;
    assert_eq!((page.len(), token.as_str()), (3, ""));
}

/// A task in each state: the first three are of `two`, and the last one is of the older version of
/// `one`.
struct OneOfEach {
    done: String,
    failed: String,
    running: String,
    cancelled: String,
    old: String,
}

impl OneOfEach {
    async fn submit(bench: &mut Bench) -> Self {
        register(
            &mut bench.client,
            &ONE.replace("task_name: one", "task_name: two"),
        )
        .await;
        register(&mut bench.client, &ONE.replace("1.0.0", "1.1.0")).await;
        let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
        let done = bench.submit("t/two", "{}").await;
        let a = worker.assignment().await;
        worker.settle(&a, success("1")).await;
        let failed = bench.submit("t/two", "{}").await;
        let a = worker.assignment().await;
        worker.settle(&a, permanent("no", "NO")).await;
        let running = bench.submit("t/two", "{}").await;
        worker.assignment().await;
        worker.close();
        worker.hear().await.unwrap();
        let cancelled = bench.submit("t/one", "{}").await;
        bench.cancel(&cancelled).await.unwrap();
        let old = SubmitTaskRequest {
            version: "1.0.0".into(),
            correlation_id: "c-1".into(),
            ..submission("t/one", "{}")
        };
        let old = bench
            .client
            .tasks
            .submit_task(old)
            .await
            .unwrap()
            .into_inner()
            .task_id;
        Self {
            done,
            failed,
            running,
            cancelled,
            old,
        }
    }
}

#[tokio::test]
async fn list_filter_returns_exactly_the_matching_tasks() {
    let mut bench = Bench::with(ONE).await;
    let tasks = OneOfEach::submit(&mut bench).await;
    states_find(&mut bench, &tasks).await;
    fields_find(&mut bench, &tasks).await;
}

async fn states_find(bench: &mut Bench, tasks: &OneOfEach) {
    let states = |states: &[TaskState]| ListTasksRequest {
        states: states.iter().map(|s| i32::from(*s)).collect(),
        ..Default::default()
    };
    let table = [
        (states(&[TaskState::Complete]), vec![&tasks.done]),
        (states(&[TaskState::Error]), vec![&tasks.failed]),
        (states(&[TaskState::Cancelled]), vec![&tasks.cancelled]),
        (states(&[TaskState::InProgress]), vec![&tasks.running]),
        (states(&[TaskState::Pending]), vec![&tasks.old]),
        (
            states(&[TaskState::Pending, TaskState::InProgress]),
            vec![&tasks.old, &tasks.running],
        ),
        (
            states(&[TaskState::Complete, TaskState::Error]),
            vec![&tasks.failed, &tasks.done],
        ),
    ];
    for (request, want) in table {
        let (found, _) = list(bench, request.clone()).await;
        assert_eq!(found.iter().collect::<Vec<_>>(), want, "{request:?}");
    }
}

async fn fields_find(bench: &mut Bench, tasks: &OneOfEach) {
    let all = ListTasksRequest::default();
    let hour = Duration::from_secs(3_600);
    #[expect(
        clippy::disallowed_methods,
        reason = "the server runs on the same machine, and an hour is far off"
    )]
    let now = SystemTime::now();
    let table = [
        (
            ListTasksRequest {
                task_name: "two".into(),
                ..all.clone()
            },
            vec![&tasks.running, &tasks.failed, &tasks.done],
        ),
        (
            ListTasksRequest {
                namespace: "t".into(),
                version: "1.1.0".into(),
                ..all.clone()
            },
            vec![&tasks.cancelled],
        ),
        (
            ListTasksRequest {
                namespace: "nobody".into(),
                ..all.clone()
            },
            vec![],
        ),
        (
            ListTasksRequest {
                correlation_id: "c-1".into(),
                ..all.clone()
            },
            vec![&tasks.old],
        ),
        (
            ListTasksRequest {
                submitted_after: Some((now + hour).into()),
                ..all.clone()
            },
            vec![],
        ),
        (
            ListTasksRequest {
                submitted_before: Some((now - hour).into()),
                ..all.clone()
            },
            vec![],
        ),
        (
            ListTasksRequest {
                submitted_after: Some((now - hour).into()),
                task_name: "one".into(),
                ..all
            },
            vec![&tasks.old, &tasks.cancelled],
        ),
    ];
    for (request, want) in table {
        let (found, _) = list(bench, request.clone()).await;
        assert_eq!(found.iter().collect::<Vec<_>>(), want, "{request:?}");
    }
}

#[tokio::test]
async fn watch_shows_every_stage_and_ends_with_the_task() {
    let mut bench = Bench::with(ONE).await;
    let id = bench.submit("t/one", "{}").await;
    let request = WatchTaskRequest {
        task_id: id.clone(),
        final_only: false,
    };
    let mut watch = bench
        .client
        .tasks
        .watch_task(request)
        .await
        .unwrap()
        .into_inner();
    let state = |m: Option<proto::WatchTaskResponse>| m.unwrap().task.unwrap().state();
    assert_eq!(state(watch.message().await.unwrap()), TaskState::Pending);
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let a = worker.assignment().await;
    assert_eq!(state(watch.message().await.unwrap()), TaskState::InProgress);
    worker.settle(&a, success("1")).await;
    assert_eq!(state(watch.message().await.unwrap()), TaskState::Complete);
    assert!(watch.message().await.unwrap().is_none());
}

#[tokio::test]
async fn watch_without_changes_repeats_the_state_within_ten_seconds() {
    let mut bench = Bench::with(ONE).await;
    let id = bench.submit("t/one", "{}").await;
    let request = WatchTaskRequest {
        task_id: id.clone(),
        final_only: false,
    };
    let mut watch = bench
        .client
        .tasks
        .watch_task(request)
        .await
        .unwrap()
        .into_inner();
    let first = watch.message().await.unwrap().unwrap();
    let silent = std::time::Instant::now();
    assert_eq!(watch.message().await.unwrap().unwrap(), first);
    let silent = silent.elapsed();
    assert!(
        silent > Duration::from_secs(8),
        "it repeats itself after {silent:?}"
    );
    assert!(
        silent < Duration::from_secs(20),
        "it was silent for {silent:?}"
    );
}

#[tokio::test]
async fn stopping_server_ends_watches_with_unavailable() {
    let mut bench = Bench::with(ONE).await;
    let id = bench.submit("t/one", "{}").await;
    let request = WatchTaskRequest {
        task_id: id,
        final_only: true,
    };
    let mut watch = bench
        .client
        .tasks
        .watch_task(request)
        .await
        .unwrap()
        .into_inner();
    bench.server.stop().await;
    assert_eq!(
        watch.message().await.unwrap_err().code(),
        tonic::Code::Unavailable
    );
}

#[tokio::test]
async fn template_is_returned_as_registered() {
    let mut bench = Bench::with(ONE).await;
    register(&mut bench.client, &ONE.replace("1.0.0", "1.10.0")).await;
    register(&mut bench.client, &ONE.replace("1.0.0", "1.9.0")).await;
    let get = |version: &str| proto::GetTemplateRequest {
        namespace: "t".into(),
        task_name: "one".into(),
        version: version.into(),
    };
    let newest = bench
        .client
        .templates
        .get_template(get(""))
        .await
        .unwrap()
        .into_inner()
        .template
        .unwrap();
    assert_eq!(newest.version, "1.10.0");
    let first = bench
        .client
        .templates
        .get_template(get("1.0.0"))
        .await
        .unwrap()
        .into_inner()
        .template
        .unwrap();
    assert_eq!(first.yaml, ONE);
    let missing = bench
        .client
        .templates
        .get_template(get("3.0.0"))
        .await
        .unwrap_err();
    assert_eq!(missing.code(), tonic::Code::NotFound);
    let mut versions = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = proto::ListTemplatesRequest {
            page_size: 2,
            page_token,
            ..Default::default()
        };
        let page = bench
            .client
            .templates
            .list_templates(request)
            .await
            .unwrap()
            .into_inner();
        versions.extend(page.templates.into_iter().map(|t| t.version));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(versions, ["1.10.0", "1.9.0", "1.0.0"]);
}
