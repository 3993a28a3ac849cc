//! Answers beyond a client's default limit: the server pages them, or leaves out fields that a
//! client can read alone.

use std::time::Duration;

use prost::Message as _;
use tasker::proto::{
    GetStepRequest, GetTaskRequest, ListTasksRequest, ListWorkersRequest, PermanentError,
    RetryableError, TaskState, WatchTaskRequest, step_result::Outcome,
    task_service_client::TaskServiceClient, worker_service_client::WorkerServiceClient,
};
use tonic::transport::Channel;

use crate::support::{
    server::{Bench, state, step},
    worker::{RawWorker, registration, success},
};

/// The default limit of gRPC messages, in most languages and here.
const DEFAULT_LIMIT: usize = 4 << 20;

async fn by_default(bench: &Bench) -> TaskServiceClient<Channel> {
    TaskServiceClient::connect(bench.server.url.clone())
        .await
        .unwrap()
}

/// A template with this many steps that depend on none.
fn wide(steps: usize) -> String {
    let templates: Vec<String> = (0..steps)
        .map(|i| format!("{{name: s{i}, handler: h}}"))
        .collect();
    format!(
        "{{namespace: t, task_name: wide, version: 1.0.0, step_templates: [{}]}}",
        templates.join(", ")
    )
}

async fn refuses_what_is_not_there(client: &mut TaskServiceClient<Channel>, id: &str) {
    for (step, attempt) in [("s9", 0), ("s1", 9)] {
        let request = GetStepRequest {
            task_id: id.to_owned(),
            step: step.into(),
            attempt,
        };
        assert_eq!(
            client.get_step(request).await.unwrap_err().code(),
            tonic::Code::NotFound
        );
    }
}

async fn a_watch_fits(client: &mut TaskServiceClient<Channel>, id: &str) {
    let watched = client
        .watch_task(WatchTaskRequest {
            task_id: id.to_owned(),
            final_only: false,
        })
        .await
        .unwrap();
    let message = watched.into_inner().message().await.unwrap().unwrap();
    assert!(
        message.encoded_len() < DEFAULT_LIMIT
            && message
                .steps
                .iter()
                .any(|step| step.omitted == ["result_json"])
    );
}

#[tokio::test]
async fn task_with_large_results_is_read_with_each_result_separately() {
    const STEPS: usize = 6;
    let mut bench = Bench::with(&wide(STEPS)).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let context = format!("{{\"c\": \"{}\"}}", "c".repeat(900_000));
    let id = bench.submit("t/wide", &context).await;
    let result = format!("\"{}\"", "x".repeat(1_000_000));
    for i in 0..STEPS {
        let assignment = worker.assignment().await;
        worker
            .settle(
                &assignment,
                success(if i == 0 { "\"small\"" } else { &result }),
            )
            .await;
    }
    let mut client = by_default(&bench).await;
    let request = GetTaskRequest {
        task_id: id.clone(),
    };
    let whole = client.get_task(request).await.unwrap().into_inner();
    assert!(whole.encoded_len() < DEFAULT_LIMIT);
    assert_eq!(
        (
            state(&whole),
            whole.task.as_ref().unwrap().context_json.len()
        ),
        (TaskState::Complete, context.len())
    );
    let omitted = whole
        .steps
        .iter()
        .filter(|step| step.omitted == ["result_json"]);
    assert_eq!(
        omitted.clone().count(),
        STEPS - 2,
        "the small one is there, and one large one"
    );
    for step in omitted {
        assert_eq!(step.result_json, "");
        let request = GetStepRequest {
            task_id: id.clone(),
            step: step.name.clone(),
            attempt: 0,
        };
        let alone = client
            .get_step(request)
            .await
            .unwrap()
            .into_inner()
            .step
            .unwrap();
        assert_eq!(
            (alone.result_json.as_str(), alone.omitted.len()),
            (result.as_str(), 0)
        );
    }
    a_watch_fits(&mut client, &id).await;
    refuses_what_is_not_there(&mut client, &id).await;
}

#[tokio::test]
async fn errors_of_many_attempts_are_cut_and_read_separately() {
    const ATTEMPTS: usize = 12;
    let yaml = format!(
        "{{namespace: t, task_name: one, version: 1.0.0, step_templates: [{{name: only, handler: h,
           default_retry_limit: {ATTEMPTS}, backoff: {{base_seconds: 0.01, max_seconds: 0.01}}}}]}}"
    );
    let mut bench = Bench::with(&yaml).await;
    bench.circuits_off().await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/one", "{}").await;
    let context = format!("{{\"d\":\"{}\"}}", "d".repeat(60_000));
    for _ in 0..ATTEMPTS {
        let assignment = worker.assignment().await;
        let error = RetryableError {
            message: "no".into(),
            context_json: context.clone(),
            ..Default::default()
        };
        worker
            .settle(&assignment, Outcome::RetryableError(error))
            .await;
    }
    let whole = bench.finished(&id).await;
    let only = step(&whole, "only");
    assert_eq!(
        (only.attempts.len(), &only.omitted[..]),
        (ATTEMPTS, &["attempts.error".to_owned()][..])
    );
    let said =
        |attempt: &tasker::proto::Attempt| attempt.error.as_ref().unwrap().context_json.len();
    assert!(only.attempts.iter().map(said).sum::<usize>() <= 512 << 10);
    let attempt = i32::try_from(ATTEMPTS).unwrap();
    let request = GetStepRequest {
        task_id: id,
        step: "only".into(),
        attempt,
    };
    let alone = by_default(&bench)
        .await
        .get_step(request)
        .await
        .unwrap()
        .into_inner()
        .step
        .unwrap();
    let [last] = &alone.attempts[..] else {
        panic!("{}", alone.attempts.len())
    };
    assert_eq!(
        (last.attempt, said(last), alone.omitted.len()),
        (attempt, context.len(), 0)
    );
}

#[tokio::test]
async fn list_of_failed_tasks_omits_error_contexts() {
    const TASKS: usize = 80;
    let yaml = "{namespace: t, task_name: one, version: 1.0.0, step_templates: [{name: only, handler: h}]}";
    let mut bench = Bench::with(yaml).await;
    bench.circuits_off().await;
    let mut worker = RawWorker::open(&bench.server.url, registration(&["h"], 100))
        .await
        .unwrap();
    for _ in 0..TASKS {
        bench.submit("t/one", "{}").await;
    }
    let context_json = format!("{{\"d\":\"{}\"}}", "d".repeat(65_000));
    for _ in 0..TASKS {
        let assignment = worker.assignment().await;
        let error = PermanentError {
            message: "no".into(),
            error_code: "NO".into(),
            context_json: context_json.clone(),
        };
        worker
            .settle(&assignment, Outcome::PermanentError(error))
            .await;
    }
    let request = ListTasksRequest {
        states: vec![TaskState::Error.into()],
        page_size: 500,
        ..Default::default()
    };
    let list = by_default(&bench)
        .await
        .list_tasks(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (list.tasks.len(), list.next_page_token.as_str()),
        (TASKS, "")
    );
    let errors = list.tasks.iter().map(|task| task.error.as_ref().unwrap());
    assert!(
        errors
            .clone()
            .all(|error| error.error_code == "NO" && error.context_json.is_empty())
    );
}

#[tokio::test]
async fn workers_with_many_handlers_are_listed_in_pages() {
    const WORKERS: usize = 16;
    let bench = Bench::with_lease(Duration::from_secs(60)).await;
    let handlers: Vec<String> = (0..1_000).map(|i| format!("{i:0>255}")).collect();
    let handlers: Vec<&str> = handlers.iter().map(String::as_str).collect();
    let mut connected = Vec::new();
    for _ in 0..WORKERS {
        connected.push(RawWorker::connect(&bench.server.url, &handlers).await);
    }
    let mut client = WorkerServiceClient::connect(bench.server.url.clone())
        .await
        .unwrap();
    let (mut found, mut pages, mut page_token) = (Vec::new(), 0, String::new());
    loop {
        let page = client
            .list_workers(ListWorkersRequest {
                page_token,
                ..Default::default()
            })
            .await
            .unwrap()
            .into_inner();
        assert!(page.encoded_len() < DEFAULT_LIMIT);
        pages += 1;
        found.extend(page.workers.into_iter().map(|worker| worker.worker_id));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let mut expected: Vec<&str> = connected
        .iter()
        .map(|worker| worker.registered.worker_id.as_str())
        .collect();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
    assert!(pages > 1);
    let one = ListWorkersRequest {
        page_size: 1,
        ..Default::default()
    };
    assert_eq!(
        client
            .list_workers(one)
            .await
            .unwrap()
            .into_inner()
            .workers
            .len(),
        1
    );
    let foreign = ListWorkersRequest {
        handler: "h".into(),
        page_token: "AAAAAAAAAAAAAAAA".into(),
        ..Default::default()
    };
    assert_eq!(
        client.list_workers(foreign).await.unwrap_err().code(),
        tonic::Code::InvalidArgument
    );
}
