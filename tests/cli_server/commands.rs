//! The commands that call a server, against a real one: the text for a person, the JSON for a
//! program, and the exit code.

mod analytics;
mod submits;
mod templates;

use std::time::Duration;

use serde_json::{Value, json};
use tasker::proto;
use tasker_worker::{PermanentError, RetryableError, StepContext, StepError, Worker, WorkerHandle};

use super::{
    Ended, run,
    support::{server::Bench, worker::RawWorker},
    tasker,
};

const FILE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/fixtures/user_registration.yaml"
);
const YAML: &str = "
    {task_name: checkout, namespace: shop, version: 1.0.0, schema: {type: object, required: [order],
     properties: {order: {type: integer}, plan: {default: free}}}, step_templates: [
      {name: pay, handler_class: pay, backoff: {base_seconds: 0.3}, handler_config: {service: bank}},
      {name: ship, handler_class: ship, depends_on_steps: [pay]}]}";

impl Bench {
    async fn tasker(&self, args: &[&str]) -> Ended {
        let mut command = tasker(args);
        command.env("TASKER_SERVER", &self.server.url);
        run(command).await
    }

    async fn tasker_json(&self, args: &[&str]) -> Value {
        let stdout = self.tasker(&[args, &["--json"]].concat()).await.ok();
        serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {stdout}"))
    }

    /// Submits a task of the checkout and returns its id as printed.
    async fn checkout(&self, order: &str) -> String {
        let context = format!(r#"{{"order": {order}}}"#);
        let id = self
            .tasker(&["task", "submit", "shop/checkout", "--context", &context])
            .await
            .ok();
        id.trim_end().to_owned()
    }
}

/// Order 1 succeeds at the second attempt, and order 2 never.
fn shop(bench: &Bench) -> WorkerHandle {
    let pay = async |step: StepContext| -> Result<Value, StepError> {
        let context: Value = step.context()?;
        match (context["order"].as_i64(), step.attempt()) {
            (Some(1), 1) => Err(RetryableError::new("the bank is busy").error_code("BUSY"))?,
            (Some(2), _) => Err(PermanentError::new("the card is refused").error_code("REFUSED"))?,
            _ => Ok(context),
        }
    };
    let ship = async |_: StepContext| Ok::<_, StepError>("on its way");
    let worker = Worker::builder([bench.server.url.as_str()])
        .name("shop-1")
        .build_id("abc")
        .label("zone", "a");
    worker
        .handler("pay", pay)
        .handler("ship", ship)
        .build()
        .unwrap()
        .spawn()
}

fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect()
}

const TASK_KEYS: [&str; 25] = [
    "task_id",
    "namespace",
    "task_name",
    "version",
    "state",
    "priority",
    "context",
    "annotations",
    "correlation_id",
    "submitted_at",
    "started_at",
    "ended_at",
    "steps_total",
    "steps_complete",
    "failed_step",
    "error",
    "cancelled_by",
    "cancel_reason",
    "paused_at",
    "paused_by",
    "pause_reason",
    "resolved_by",
    "resolve_reason",
    "not_before",
    "expires_at",
];
const ATTEMPT_KEYS: [&str; 12] = [
    "attempt",
    "outcome",
    "charged",
    "worker_id",
    "worker_name",
    "started_at",
    "ended_at",
    "error",
    "retry_after",
    "next_attempt_at",
    "late_result_at",
    "late_outcome",
];
const STEP_KEYS: [&str; 25] = [
    "name",
    "description",
    "handler",
    "service",
    "state",
    "depends_on",
    "attempt",
    "retry_limit",
    "charged_attempts",
    "result",
    "error",
    "ready_at",
    "started_at",
    "ended_at",
    "next_attempt_at",
    "deadline_at",
    "worker_name",
    "handler_config",
    "annotations",
    "attempts",
    "set_by",
    "set_reason",
    "origins",
    "condition",
    "omitted",
];

/// Asserts on the document of the first order, which succeeded at the second attempt.
fn is_the_first_order(whole: &Value) {
    assert_eq!(keys(whole), ["task", "steps", "dependencies"]);
    assert_eq!(
        (keys(&whole["task"]), keys(&whole["steps"][0])),
        (TASK_KEYS.to_vec(), STEP_KEYS.to_vec())
    );
    assert_eq!(
        whole["task"]["context"],
        json!({"order": 1, "plan": "free"})
    );
    assert_eq!(
        whole["steps"][0]["result"],
        json!({"order": 1, "plan": "free"})
    );
    assert_eq!(
        (&whole["steps"][0]["service"], &whole["steps"][1]["service"]),
        (&json!("bank"), &json!("ship"))
    );
    assert_eq!(
        whole["dependencies"],
        json!([{"step": "ship", "depends_on": "pay"}])
    );
    let attempts = &whole["steps"][0]["attempts"];
    assert_eq!(
        (keys(&attempts[0]), attempts.as_array().map(Vec::len)),
        (ATTEMPT_KEYS.to_vec(), Some(2))
    );
    assert_eq!(
        attempts[0]["error"],
        json!({"message": "the bank is busy", "error_code": "BUSY", "context": null})
    );
    assert_eq!(
        (&attempts[0]["outcome"], &attempts[1]["outcome"]),
        (&json!("retryable_error"), &json!("succeeded"))
    );
}

#[tokio::test]
async fn task_is_submitted_watched_and_read() {
    let bench = Bench::with(YAML).await;
    let _shop = shop(&bench);
    let id = bench.checkout("1").await;
    let watched = bench.tasker(&["task", "watch", &id]).await.ok();
    let last = watched.lines().last().unwrap();
    assert!(
        last.contains("  task  complete           2/2 steps, "),
        "{watched}"
    );
    let waits = watched
        .lines()
        .find(|line| line.contains("waiting_for_retry"))
        .unwrap_or_else(|| panic!("{watched}"));
    assert!(
        waits.contains("  pay   waiting_for_retry  retry in ")
            && waits.ends_with(": BUSY: the bank is busy")
    );

    let read = bench.tasker(&["task", "get", &id]).await.ok();
    for part in [
        "shop/checkout@1.0.0\n",
        "complete, 2/2 steps complete",
        "✓  pay",
        "retryable_error  yes",
        "shop-1",
    ] {
        assert!(read.contains(part), "{part}: {read}");
    }
    is_the_first_order(&bench.tasker_json(&["task", "get", &id]).await);

    // A finished task is reported at once, in one line of JSON.
    let watched = bench.tasker_json(&["task", "watch", &id]).await;
    assert_eq!(
        (keys(&watched), &watched["task"]["state"]),
        (vec!["task", "steps"], &json!("complete"))
    );
    let nothing = bench
        .tasker(&["task", "get", &uuid::Uuid::nil().to_string()])
        .await
        .failed(1);
    assert!(nothing.contains("there is no task"), "{nothing}");
    assert!(
        bench
            .tasker(&["task", "get", "12"])
            .await
            .failed(2)
            .contains("TASK_ID")
    );
}

impl Bench {
    async fn submit_checkout(&self, more: &[&str]) -> Ended {
        self.tasker(&[&["task", "submit", "shop/checkout"], more].concat())
            .await
    }
}

#[tokio::test]
async fn watch_exits_with_the_code_of_the_end() {
    let bench = Bench::with(YAML).await;
    let _shop = shop(&bench);
    for (order, code, state) in [("1", 0, "complete"), ("2", 3, "error")] {
        let context = format!(r#"{{"order": {order}}}"#);
        let args = [
            "task",
            "submit",
            "shop/checkout",
            "--watch",
            "--json",
            "--context",
            &context,
        ];
        let ended = bench.tasker(&args).await;
        assert_eq!(ended.code, Some(code), "{ended:?}");
        let lines: Vec<Value> = ended
            .stdout
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines[0]["created"], true);
        assert_eq!(lines.last().unwrap()["task"]["state"], state);
    }
    let failed = bench
        .tasker_json(&["task", "list", "--state", "error", "--namespace", "shop"])
        .await;
    assert_eq!(
        (
            keys(&failed["tasks"][0]),
            failed["tasks"].as_array().map(Vec::len)
        ),
        (TASK_KEYS.to_vec(), Some(1))
    );
    assert_eq!(failed["tasks"][0]["failed_step"], "pay");
    assert_eq!(failed["tasks"][0]["error"]["error_code"], "REFUSED");
    let table = bench
        .tasker(&["task", "list", "--state", "error,cancelled"])
        .await
        .ok();
    assert!(
        table.contains("REFUSED: the card is refused") && table.lines().count() == 2,
        "{table}"
    );
    let none = bench.tasker(&["task", "list", "--state", "pending"]).await;
    assert_eq!(
        (none.stderr.as_str(), none.stdout.as_str(), none.code),
        ("no task matches\n", "", Some(0))
    );
}

#[tokio::test]
async fn cancel_reaches_worker_and_watcher() {
    let mut bench = Bench::with(YAML).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["pay"]).await;
    let id = bench.checkout("3").await;
    let assignment = worker.assignment().await;
    let running = bench.tasker_json(&["worker", "list"]).await;
    assert_eq!(running["workers"][0]["steps_in_progress"], 1);

    let watch = ["task", "watch", &id];
    let cancel = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        bench
            .tasker(&["task", "cancel", &id, "--reason", "a test"])
            .await
    };
    let (watched, cancelled) = tokio::join!(bench.tasker(&watch), cancel);
    assert_eq!(
        cancelled.stderr,
        format!("{id} is cancelled, with 0/2 steps complete\n")
    );
    assert_eq!(cancelled.ok(), "");
    assert_eq!(watched.code, Some(4), "{watched:?}");
    assert!(
        watched.stdout.ends_with(", by ann: a test\n"),
        "{watched:?}"
    );
    let cancel = worker.cancelled().await;
    assert_eq!(
        (cancel.lease_token, cancel.reason),
        (
            assignment.lease_token,
            proto::CancelReason::TaskCancelled.into()
        )
    );

    let again = bench
        .tasker_json(&["task", "cancel", &id, "--reason", "again", "--by", "bob"])
        .await;
    assert_eq!(
        (
            &again["task"]["cancelled_by"],
            &again["task"]["cancel_reason"]
        ),
        (&json!("ann"), &json!("a test"))
    );
    let task = bench.get(&id).await.task.unwrap();
    assert_eq!(
        (task.cancelled_by.as_str(), task.cancel_reason.as_str()),
        ("ann", "a test")
    );
    let missing = bench
        .tasker(&[
            "task",
            "cancel",
            &uuid::Uuid::nil().to_string(),
            "--reason",
            "x",
        ])
        .await
        .failed(1);
    assert!(missing.contains("there is no task"), "{missing}");
}

#[tokio::test]
async fn cancel_of_an_ended_task_is_refused() {
    let bench = Bench::with(YAML).await;
    let _shop = shop(&bench);
    let id = bench.checkout("4").await;
    bench.tasker(&["task", "watch", &id]).await.ok();
    let said = bench
        .tasker(&["task", "cancel", &id, "--reason", "too late"])
        .await
        .failed(1);
    assert!(
        said.contains("complete"),
        "it says how the task ended: {said}"
    );
}

#[tokio::test]
async fn worker_list_shows_connected_workers() {
    let bench = Bench::with(YAML).await;
    let none = bench.tasker(&["worker", "list"]).await;
    assert_eq!(
        (none.stderr.as_str(), none.stdout.as_str(), none.code),
        ("no worker is connected\n", "", Some(0))
    );
    let shop = shop(&bench);
    bench
        .tasker(&["task", "watch", &bench.checkout("4").await])
        .await
        .ok();
    let table = bench
        .tasker(&["worker", "list", "--handler", "pay"])
        .await
        .ok();
    let row = table.lines().nth(1).unwrap();
    assert!(
        row.starts_with("shop-1  connected  0/") && row.ends_with("pay ship"),
        "{table}"
    );
    let list = bench.tasker_json(&["worker", "list"]).await;
    let expected = [
        "worker_id",
        "name",
        "build_id",
        "namespaces",
        "handlers",
        "max_concurrent_steps",
        "steps_in_progress",
        "labels",
        "server_id",
        "connected_at",
        "lease_expires_at",
        "draining",
        "max_assignment_bytes",
    ];
    assert_eq!(keys(&list["workers"][0]), expected);
    assert_eq!(
        (
            &list["workers"][0]["build_id"],
            &list["workers"][0]["labels"]
        ),
        (&json!("abc"), &json!({"zone": "a"}))
    );
    let none = bench.tasker(&["worker", "list", "--handler", "fly"]).await;
    assert_eq!(none.stderr, "no connected worker has the handler fly\n");
    shop.shutdown().await.unwrap();
    assert_eq!(
        bench.tasker_json(&["worker", "list"]).await,
        json!({"workers": []})
    );
}
