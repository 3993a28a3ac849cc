//! The commands that talk to a server, against a real one: what a person reads, what a program reads, and the exit code.

use std::{process::Stdio, time::Duration};

use serde_json::{Value, json};
use tasker::{
    proto,
    worker::{PermanentError, RetryableError, StepContext, StepError, Worker, WorkerHandle},
};
use tokio::io::AsyncWriteExt as _;

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

    /// A task of the checkout, and its id as it was printed.
    async fn checkout(&self, order: &str) -> String {
        let context = format!(r#"{{"order": {order}}}"#);
        let id = self
            .tasker(&["task", "submit", "shop/checkout", "--context", &context])
            .await
            .ok();
        id.trim_end().to_owned()
    }
}

/// Order 1 works at the second try, and order 2 never.
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

#[tokio::test]
async fn a_template_from_a_file_to_the_server_and_back() {
    let bench = Bench::new().await;
    let valid = bench.tasker(&["template", "validate", FILE]).await;
    assert!(
        valid
            .stderr
            .ends_with("valid: user_management/user_registration@2.6.0, 5 steps\n"),
        "{valid:?}"
    );
    assert_eq!(valid.ok(), "");

    let registered = bench.tasker(&["template", "register", FILE]).await;
    assert_eq!(
        registered.stderr,
        "registered user_management/user_registration@2.6.0, 5 steps\n"
    );
    assert_eq!(registered.ok(), "user_management/user_registration@2.6.0\n");
    let again = bench.tasker_json(&["template", "register", FILE]).await;
    assert_eq!(again["templates"][0]["created"], false);
    assert_eq!(again["templates"][0]["template"]["version"], "2.6.0");

    let list = bench.tasker(&["template", "list"]).await.ok();
    assert!(
        list.lines()
            .nth(1)
            .unwrap()
            .starts_with("user_management/user_registration  2.6.0    5      20"),
        "{list}"
    );
    let list = bench
        .tasker_json(&["template", "list", "--namespace", "user_management"])
        .await;
    assert_eq!(
        list["templates"][0]["steps"].as_array().map(Vec::len),
        Some(5)
    );
    let none = bench
        .tasker(&["template", "list", "--namespace", "elsewhere"])
        .await;
    assert!(
        none.stderr.contains("no template is registered here"),
        "{none:?}"
    );
    assert_eq!(none.ok(), "");

    let name = "user_management/user_registration";
    let shown = bench.tasker(&["template", "show", name]).await.ok();
    assert!(
        shown.contains("├─○─┐  setup_billing_profile") && shown.contains("SCHEMA OF THE CONTEXT"),
        "{shown}"
    );
    let shown = bench
        .tasker(&["template", "show", &format!("{name}@2.6.0"), "--yaml"])
        .await
        .ok();
    assert_eq!(shown, std::fs::read_to_string(FILE).unwrap());
    let shown = bench.tasker_json(&["template", "show", name]).await;
    let expected = [
        "namespace",
        "task_name",
        "version",
        "description",
        "schema",
        "steps",
        "yaml",
        "registered_at",
        "environment",
        "has_planner",
        "timeout_seconds",
    ];
    assert_eq!(keys(&shown["template"]), expected);
    assert_eq!(
        shown["template"]["schema"]["properties"]["plan"]["default"],
        "free"
    );
    let missing = bench
        .tasker(&["template", "show", &format!("{name}@9.9.9")])
        .await
        .failed(1);
    assert!(
        missing.starts_with("error: cannot show user_management/user_registration@9.9.9: "),
        "{missing}"
    );
}

#[tokio::test]
async fn a_wrong_template_goes_nowhere() {
    let bench = Bench::with(YAML).await;
    let wrong = YAML
        .replace("[pay]", "[pray]")
        .replace("checkout", "other")
        .replace("backoff", "backof");
    let mut validate = tasker(["template", "validate", "-"]);
    validate
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut validate = validate.spawn().unwrap();
    validate
        .stdin
        .take()
        .unwrap()
        .write_all(wrong.as_bytes())
        .await
        .unwrap();
    let ended = validate.wait_with_output().await.unwrap();
    let lines = String::from_utf8(ended.stdout).unwrap();
    assert_eq!(
        (ended.status.code(), lines.lines().count()),
        (Some(65), 2),
        "{lines}"
    );
    assert!(
        lines.starts_with("-:4:39: step_templates[0].backof: ") && lines.contains("\n-:5:60: "),
        "{lines}"
    );

    let file =
        std::env::temp_dir().join(format!("tasker-cli-{}.yaml", uuid::Uuid::new_v4().simple()));
    let path = file.to_str().unwrap();
    std::fs::write(&file, &wrong).unwrap();
    let said = bench
        .tasker(&["template", "register", FILE, path])
        .await
        .failed(65);
    assert!(
        said.contains("pray") && said.ends_with("error: 2 problems in 1 file\n"),
        "{said}"
    );
    let list = bench
        .tasker_json(&["template", "list", "--namespace", "user_management"])
        .await;
    assert_eq!(
        list,
        json!({"templates": []}),
        "all files are checked before any is sent"
    );

    std::fs::write(&file, YAML.replace("0.3", "0.4")).unwrap();
    let said = bench
        .tasker(&["template", "register", path])
        .await
        .failed(1);
    assert!(
        said.contains("shop/checkout@1.0.0") || said.contains("1.0.0"),
        "{said}"
    );
    std::fs::remove_file(&file).unwrap();
    let said = bench
        .tasker(&["template", "register", path])
        .await
        .failed(1);
    assert!(said.contains("No such file"), "{said}");
}

#[tokio::test]
async fn a_task_is_submitted_watched_and_read() {
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
    let whole = bench.tasker_json(&["task", "get", &id]).await;
    assert_eq!(keys(&whole), ["task", "steps", "dependencies"]);
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

    // A finished task is told at once, in one line of JSON.
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

#[tokio::test]
async fn a_submit_is_checked_and_can_be_repeated() {
    let bench = Bench::with(YAML).await;
    let submit = |more: &'static [&'static str]| {
        let bench = &bench;
        async move {
            bench
                .tasker(&[&["task", "submit", "shop/checkout"], more].concat())
                .await
        }
    };
    let said = submit(&["--context", r#"{"order": "x"}"#]).await.failed(65);
    assert!(
        said.starts_with("error: cannot submit shop/checkout: context_json/order: "),
        "{said}"
    );
    assert_eq!(
        said.matches("context_json/order").count(),
        1,
        "a violation is told once: {said}"
    );
    let said = submit(&["--context", r#"{"order": 1"#]).await.failed(65);
    assert!(said.contains("--context: the context is wrong"), "{said}");
    assert!(
        submit(&["--version", "7.0.0", "--context", r#"{"order": 1}"#])
            .await
            .failed(1)
            .contains("7.0.0")
    );
    assert!(
        submit(&["--priority", "101"])
            .await
            .failed(2)
            .contains("101")
    );

    const ONCE: &[&str] = &[
        "--context",
        r#"{"order": 7}"#,
        "--idempotency-key",
        "k",
        "--json",
    ];
    let first: Value = serde_json::from_str(&submit(ONCE).await.ok()).unwrap();
    assert_eq!(
        keys(&first),
        ["task_id", "created", "correlation_id", "version"]
    );
    let second: Value = serde_json::from_str(&submit(ONCE).await.ok()).unwrap();
    assert_eq!(
        (&second["task_id"], &second["created"]),
        (&first["task_id"], &json!(false))
    );
    const OTHER: &[&str] = &["--context", r#"{"order": 8}"#, "--idempotency-key", "k"];
    assert!(submit(OTHER).await.failed(1).contains("idempotency"));
    let list = bench.tasker_json(&["task", "list"]).await;
    assert_eq!(
        list["tasks"].as_array().map(Vec::len),
        Some(1),
        "what was refused is not stored"
    );

    const NOTES: &[&str] = &[
        "--context",
        r#"{"order": 9007199254740993}"#,
        "--correlation-id",
        "c-9",
        "--annotation",
        "team=blue",
        "--priority",
        "-7",
    ];
    let noted = submit(NOTES).await;
    assert!(
        noted
            .stderr
            .starts_with("submitted shop/checkout@1.0.0, correlation id c-9\n"),
        "{noted:?}"
    );
    let task = bench.tasker_json(&["task", "get", noted.ok().trim()]).await["task"].clone();
    assert_eq!(
        task["annotations"],
        json!({"team": "blue", "correlation_id": "c-9"})
    );
    assert_eq!(
        (&task["priority"], task["context"]["order"].to_string()),
        (&json!(-7), "9007199254740993".into())
    );
    let found = bench
        .tasker_json(&["task", "list", "--correlation-id", "c-9"])
        .await;
    assert_eq!(found["tasks"][0]["task_id"], task["task_id"]);
}

#[tokio::test]
async fn a_watch_ends_as_the_task_does() {
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
        ("no such task\n", "", Some(0))
    );
}

#[tokio::test]
async fn a_cancel_reaches_the_worker_and_the_watcher() {
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
async fn an_ended_task_cannot_be_cancelled() {
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
async fn the_workers_are_listed() {
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

#[tokio::test]
async fn analytics_are_a_table_and_a_document() {
    let mut bench = Bench::with(YAML).await;
    let worker = shop(&bench);
    let id = bench.checkout("1").await;
    bench.finished(&id).await;
    let table = bench
        .tasker(&["analytics", "performance", "--namespace", "shop"])
        .await;
    assert!(
        table.stderr.contains("1 tasks of the last 1 d 0 h"),
        "{table:?}"
    );
    let table = table.ok();
    let lines: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0][..4], ["NAME", "COUNT", "OK", "RETRIED"]);
    assert_eq!(
        lines[1][..4],
        ["shop/checkout@1.0.0", "1", "100.0%", "100.0%"]
    );
    assert_eq!(
        (lines[2][..4].join(" "), lines[3][..4].join(" ")),
        ("pay 1 100.0% 100.0%".into(), "ship 1 100.0% 0.0%".into())
    );
    let found = bench
        .tasker_json(&[
            "analytics",
            "performance",
            "--task-name",
            "checkout",
            "--since",
            "1h",
        ])
        .await;
    assert_eq!(
        found["templates"][0]["steps"][0]["retry_rate"], 1.0,
        "{found:#}"
    );
    let told = bench
        .tasker(&["analytics", "bottlenecks", "--namespace", "shop"])
        .await
        .ok();
    assert!(told.contains("repeating pay adds "), "{told}");
    let told = bench
        .tasker_json(&["analytics", "bottlenecks", "--limit", "1"])
        .await;
    // Whether the run or the wait before it costs more depends on how busy this machine is.
    assert_eq!(
        (
            &told["bottlenecks"][0]["step"],
            told["bottlenecks"].as_array().map(Vec::len)
        ),
        (&json!("pay"), Some(1))
    );
    let refused = bench
        .tasker(&["analytics", "bottlenecks", "--since", "32d"])
        .await;
    assert!(
        refused.code != Some(0) && refused.stderr.contains("window_seconds"),
        "{refused:?}"
    );
    assert!(
        bench
            .tasker(&["analytics", "performance", "--since", "soon"])
            .await
            .failed(2)
            .contains("90s, 15m, 2h, 7d")
    );
    worker.shutdown().await.unwrap();
}

#[tokio::test]
async fn warnings_are_shown_and_a_legal_name_can_be_said() {
    let bench = Bench::new().await;
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/rails/stock_count.yaml"
    );
    let checked = bench.tasker(&["template", "validate", file]).await.ok();
    assert_eq!(
        checked
            .lines()
            .filter(|line| line.contains(": warning: "))
            .count(),
        7,
        "{checked}"
    );
    let strict = bench
        .tasker(&["template", "validate", file, "--deny-warnings"])
        .await;
    assert!(
        strict.code == Some(65) && strict.stderr.contains("7 warnings in 1 file"),
        "{strict:?}"
    );
    let denied = bench
        .tasker(&["template", "register", file, "--deny-warnings"])
        .await
        .failed(65);
    assert!(
        denied.contains(":7:1: warning: task_handler_class: the key is not used"),
        "{denied}"
    );
    assert_eq!(
        bench.tasker_json(&["template", "list"]).await["templates"],
        json!([])
    );

    let stored = bench.tasker(&["template", "register", file]).await;
    assert!(
        stored
            .stderr
            .contains(":7:1: warning: task_handler_class: the key is not used"),
        "{stored:?}"
    );
    assert_eq!(stored.ok(), "warehouse/warehouse.stock_count@1.2.0\n");

    let path = std::env::temp_dir().join(format!("tasker-odd-name-{}.yaml", std::process::id()));
    std::fs::write(
        &path,
        "namespace: '-n:$é'\nname: 'a::B?#%&'\nstep_templates: [{name: '~', handler: h}]\n",
    )
    .unwrap();
    let name = bench
        .tasker(&["template", "register", path.to_str().unwrap()])
        .await
        .ok();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(name, "-n:$é/a::B?#%&@0.1.0\n");
    let shown = bench
        .tasker(&["template", "show", "--json", "--", name.trim_end()])
        .await
        .ok();
    assert!(shown.contains(r#""namespace": "-n:$é""#), "{shown}");
}
