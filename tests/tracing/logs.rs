//! JSON logs: every line is an object, and each line about a task has its correlation id.

use serde_json::Value;
use tasker::proto;

use crate::support::{
    TestDb,
    process::ServerProcess,
    server::{eventually, finished, register, submission},
    worker::{RawWorker, permanent, retryable, success},
};

const ONE: &str = "
task_name: one
namespace: t
version: 1.0.0
step_templates:
  - {name: a, handler_class: h, backoff: {base_seconds: 0.01, jitter: 0}}
";

/// Tasks that end in each way: their ids, and their correlation ids.
async fn tasks_of_each_end(
    client: &mut tasker_worker::client::Client,
    worker: &mut RawWorker,
) -> Vec<(String, &'static str)> {
    let mut ids = Vec::new();
    for (name, outcomes) in [
        ("c-complete", vec![retryable("busy", None), success("1")]),
        ("c-failed", vec![permanent("no", "NO")]),
        ("c-cancelled", vec![]),
    ] {
        let request = proto::SubmitTaskRequest {
            correlation_id: name.into(),
            ..submission("t/one", "{}")
        };
        let id = client
            .tasks
            .submit_task(request)
            .await
            .unwrap()
            .into_inner()
            .task_id;
        let cancelled = outcomes.is_empty();
        for outcome in outcomes {
            let step = worker.assignment().await;
            worker.settle(&step, outcome).await;
        }
        if cancelled {
            worker.assignment().await;
            let request = proto::CancelTaskRequest {
                task_id: id.clone(),
                by: "me".into(),
                reason: "why".into(),
            };
            client.tasks.cancel_task(request).await.unwrap();
        }
        finished(client, &id).await;
        ids.push((id, name));
    }
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn log_line_of_a_task_has_its_correlation_id() {
    let db = TestDb::new().await;
    let args = [
        "--listen",
        "127.0.0.1:0",
        "--log",
        "info,tasker::tasks=debug",
        "--log-format",
        "json",
    ];
    let server = ServerProcess::start_with(db.url(), &args, &[]);
    let mut client = tasker_worker::client::Client::connect(&server.url)
        .await
        .unwrap();
    register(&mut client, ONE).await;
    let mut worker = RawWorker::connect(&server.url, &["h"]).await;
    let ids = tasks_of_each_end(&mut client, &mut worker).await;
    let told = async || {
        (lines(&server)
            .iter()
            .filter(|l| l["message"] == "task ended")
            .count()
            == 3)
            .then_some(())
    };
    eventually("three tasks have ended in the log", told).await;
    let lines = lines(&server);
    assert!(
        lines
            .iter()
            .any(|l| l["message"] == "the database answers" && l["level"] == "INFO"),
        "{lines:?}"
    );
    let mut said = Vec::new();
    for line in lines.iter().filter(|line| !line["task_id"].is_null()) {
        let (_, name) = ids.iter().find(|(id, _)| line["task_id"] == **id).unwrap();
        assert_eq!(line["correlation_id"], **name, "{line}");
        let more = line["outcome"]
            .as_str()
            .or(line["state"].as_str())
            .unwrap_or_default();
        said.push(format!(
            "{name}: {} {more}",
            line["message"].as_str().unwrap()
        ));
    }
    said.sort();
    assert_eq!(
        said,
        [
            "c-cancelled: attempt ended cancelled",
            "c-cancelled: task ended cancelled",
            "c-cancelled: task submitted ",
            "c-complete: attempt ended retryable_error",
            "c-complete: attempt ended succeeded",
            "c-complete: task ended complete",
            "c-complete: task submitted ",
            "c-failed: attempt ended permanent_error",
            "c-failed: task ended error",
            "c-failed: task submitted ",
        ]
    );
}

fn lines(server: &ServerProcess) -> Vec<Value> {
    server
        .log()
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect()
}
