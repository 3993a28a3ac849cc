//! grpcurl without a `.proto` file: server reflection alone is enough to read, to run a workflow,
//! and even to be its worker.

mod reflection;
#[path = "../support/mod.rs"]
mod support;

use std::process::{Output, Stdio};

use serde_json::{Value, json};
use support::{
    server::{Bench, PATIENCE, eventually},
    tool,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

const REGISTRATION: &str = include_str!("../fixtures/user_registration.yaml");
const SERVICES: [&str; 9] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "tasker.v1.AnalyticsService",
    "tasker.v1.CircuitService",
    "tasker.v1.EventService",
    "tasker.v1.TaskService",
    "tasker.v1.TemplateService",
    "tasker.v1.WorkerService",
];

/// A grpcurl command: the options, the address, then the rest.
fn command(bench: &Bench, options: &[&str], rest: &[&str]) -> Command {
    let mut command = Command::new(tool("grpcurl"));
    command
        .arg("-plaintext")
        .args(options)
        .arg(bench.server.url.trim_start_matches("http://"))
        .args(rest);
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn run(bench: &Bench, options: &[&str], rest: &[&str]) -> (Option<i32>, String, String) {
    let run = command(bench, options, rest).output();
    let Output {
        status,
        stdout,
        stderr,
    } = tokio::time::timeout(PATIENCE, run)
        .await
        .expect("it ends")
        .unwrap();
    (
        status.code(),
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
    )
}

async fn text(bench: &Bench, rest: &[&str]) -> String {
    let (code, stdout, stderr) = run(bench, &[], rest).await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    stdout
}

/// Calls and returns the one response.
async fn call(bench: &Bench, method: &str, request: Value) -> Value {
    let (code, stdout, stderr) = run(
        bench,
        &["-emit-defaults", "-d", &request.to_string()],
        &[method],
    )
    .await;
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{method}");
    serde_json::from_str(&stdout).unwrap()
}

/// Calls and returns the error output.
async fn refused(bench: &Bench, method: &str, request: Value) -> String {
    let (code, stdout, stderr) = run(bench, &["-d", &request.to_string()], &[method]).await;
    // 64 plus the code of the status.
    assert!(
        code.is_some_and(|code| code > 64),
        "{method}: {code:?} {stderr}"
    );
    assert_eq!(stdout, "");
    stderr
}

/// A streaming call: stdin takes the requests, and stdout returns the responses.
struct Talk {
    says: Option<ChildStdin>,
    hears: Lines<BufReader<ChildStdout>>,
    child: Child,
}

impl Talk {
    fn start(bench: &Bench, method: &str) -> Self {
        let mut command = command(bench, &["-emit-defaults", "-d", "@"], &[method]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let hears = BufReader::new(child.stdout.take().unwrap()).lines();
        Self {
            says: child.stdin.take(),
            hears,
            child,
        }
    }

    async fn say(&mut self, message: Value) {
        self.says
            .as_mut()
            .unwrap()
            .write_all(format!("{message}\n").as_bytes())
            .await
            .unwrap();
    }

    /// The next message; `None` at the end.
    async fn hear(&mut self) -> Option<Value> {
        let mut document = String::new();
        loop {
            let line = tokio::time::timeout(PATIENCE, self.hears.next_line())
                .await
                .expect("nothing comes")
                .unwrap()?;
            document += &line;
            document.push('\n');
            // grpcurl indents every line except the outermost brackets.
            if line == "}" {
                return Some(serde_json::from_str(&document).unwrap());
            }
        }
    }

    /// The next message of this kind to a worker; an assignment may arrive before the
    /// acknowledgement that freed its slot.
    async fn hear_one(&mut self, kind: &str, early: &mut Vec<Value>) -> Value {
        if let Some(at) = early.iter().position(|message| message.get(kind).is_some()) {
            return early.remove(at)[kind].take();
        }
        loop {
            let mut message = self.hear().await.unwrap();
            if message.get(kind).is_some() {
                return message[kind].take();
            }
            early.push(message);
        }
    }

    /// Closes stdin, reads the remaining messages, and returns the exit code.
    async fn end(mut self) -> Option<i32> {
        drop(self.says.take());
        while self.hear().await.is_some() {}
        tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .expect("it ends")
            .unwrap()
            .code()
    }
}

#[tokio::test]
#[ignore = "needs grpcurl: make test"]
async fn reflection_lists_every_service() {
    let bench = Bench::new().await;
    assert_eq!(
        text(&bench, &["list"]).await.lines().collect::<Vec<_>>(),
        SERVICES
    );
    assert!(
        text(&bench, &["list", "tasker.v1.WorkerService"])
            .await
            .contains("tasker.v1.WorkerService.Work\n")
    );
    for service in SERVICES {
        let described = text(&bench, &["describe", service]).await;
        assert!(
            described.contains(&format!("{service} is a service:")),
            "{described}"
        );
    }
    let described = text(&bench, &["describe", "tasker.v1.WorkerService"]).await;
    assert!(described.contains(
        "rpc Work ( stream .tasker.v1.WorkRequest ) returns ( stream .tasker.v1.WorkResponse );"
    ));
    assert!(
        described.contains("The server sends the `ack` of a result after its commit"),
        "the comments are there: {described}"
    );
    let described = text(&bench, &["describe", "tasker.v1.StepResult"]).await;
    assert!(
        described.contains(".tasker.v1.RetryableError retryable_error = 3;"),
        "{described}"
    );
    assert!(
        text(&bench, &["describe", "tasker.v1.TaskState"])
            .await
            .contains("TASK_STATE_CANCELLED = 5;")
    );
    assert!(
        text(&bench, &["describe", "google.rpc.BadRequest"])
            .await
            .contains("field_violations")
    );
}

#[tokio::test]
#[ignore = "needs grpcurl: make test"]
async fn health_service_is_the_standard_one() {
    let bench = Bench::new().await;
    for service in [
        "",
        "tasker.v1.TaskService",
        "tasker.v1.TemplateService",
        "tasker.v1.WorkerService",
        "tasker.v1.CircuitService",
        "tasker.v1.EventService",
        "tasker.v1.AnalyticsService",
    ] {
        let health = call(
            &bench,
            "grpc.health.v1.Health/Check",
            json!({"service": service}),
        )
        .await;
        assert_eq!(health, json!({"status": "SERVING"}), "{service}");
    }
    assert!(
        refused(
            &bench,
            "grpc.health.v1.Health/Check",
            json!({"service": "x"})
        )
        .await
        .contains("Code: NotFound")
    );
    let mut watch = Talk::start(&bench, "grpc.health.v1.Health/Watch");
    watch.say(json!({})).await;
    drop(watch.says.take());
    assert_eq!(watch.hear().await, Some(json!({"status": "SERVING"})));
}

#[tokio::test]
#[ignore = "needs grpcurl: make test"]
async fn error_contains_its_details() {
    let bench = Bench::with(REGISTRATION).await;
    let request = json!({"namespace": "user_management", "task_name": "user_registration", "context_json": "{}"});
    let said = refused(&bench, "tasker.v1.TaskService/SubmitTask", request).await;
    for part in [
        "Code: InvalidArgument",
        "google.rpc.BadRequest",
        r#""field": "context_json""#,
        r#"\"email\" is required"#,
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let said = refused(
        &bench,
        "tasker.v1.TemplateService/RegisterTemplate",
        json!({"yaml": "a: [1"}),
    )
    .await;
    assert!(
        said.contains("Code: InvalidArgument") && said.contains("fieldViolations"),
        "{said}"
    );
    let said = refused(
        &bench,
        "tasker.v1.TaskService/GetTask",
        json!({"task_id": uuid::Uuid::nil().to_string()}),
    )
    .await;
    assert!(said.contains("Code: NotFound"), "{said}");
}

/// The whole life of a task, with grpcurl as every client and the worker.
#[tokio::test]
#[ignore = "needs grpcurl: make test"]
#[expect(clippy::too_many_lines, reason = "the whole life of one task")]
async fn grpcurl_submits_a_task_and_performs_its_steps() {
    const YAML: &str = "
        {task_name: hello, namespace: grpcurl, version: 1.0.0, step_templates: [
          {name: greet, handler_class: greet, backoff: {base_seconds: 0.1}},
          {name: wave, handler_class: wave, depends_on_steps: [greet]}]}";
    let bench = Bench::new().await;
    let register = json!({"yaml": YAML});
    for created in [true, false] {
        let registered = call(
            &bench,
            "tasker.v1.TemplateService/RegisterTemplate",
            register.clone(),
        )
        .await;
        assert_eq!(
            (&registered["created"], &registered["template"]["taskName"]),
            (&json!(created), &json!("hello"))
        );
    }
    let templates = call(
        &bench,
        "tasker.v1.TemplateService/ListTemplates",
        json!({"namespace": "grpcurl"}),
    )
    .await;
    assert_eq!(
        templates["templates"][0]["steps"][1]["dependsOn"],
        json!(["greet"])
    );

    let big = r#"{"id": 9007199254740993}"#;
    let submit = json!({"namespace": "grpcurl", "task_name": "hello", "context_json": big, "idempotency_key": "k"});
    let submitted = call(&bench, "tasker.v1.TaskService/SubmitTask", submit.clone()).await;
    let again = call(&bench, "tasker.v1.TaskService/SubmitTask", submit).await;
    assert_eq!(
        (&again["taskId"], &again["created"]),
        (&submitted["taskId"], &json!(false))
    );
    let task = json!({"task_id": submitted["taskId"]});
    let mut watch = Talk::start(&bench, "tasker.v1.TaskService/WatchTask");
    watch.say(task.clone()).await;
    drop(watch.says.take());
    assert_eq!(
        watch.hear().await.unwrap()["task"]["state"],
        "TASK_STATE_PENDING"
    );

    let mut worker = Talk::start(&bench, "tasker.v1.WorkerService/Work");
    let register = json!({"name": "me", "handlers": ["greet", "wave"], "max_concurrent_steps": 1});
    worker.say(json!({ "register": register })).await;
    let registered = worker.hear().await.unwrap()["registered"].clone();
    assert_eq!(registered["leaseDuration"], "2s");
    let workers = call(
        &bench,
        "tasker.v1.WorkerService/ListWorkers",
        json!({"handler": "wave"}),
    )
    .await;
    assert_eq!(workers["workers"][0]["workerId"], registered["workerId"]);

    let failure = json!({"message": "not now", "error_code": "BUSY", "retry_after": "0.1s"});
    let answers = [
        ("greet", 1, json!({ "retryable_error": failure })),
        ("greet", 2, json!({"success": {"result_json": big}})),
        ("wave", 1, json!({"success": {"result_json": "\"bye\""}})),
    ];
    let mut early = Vec::new();
    for (step, attempt, mut answer) in answers {
        let assignment = worker.hear_one("assignment", &mut early).await;
        assert_eq!(
            (&assignment["stepName"], &assignment["attempt"]),
            (&json!(step), &json!(attempt))
        );
        assert_eq!(assignment["contextJson"], big);
        if step == "wave" {
            assert_eq!(assignment["resultsJson"], json!({"greet": big}));
        }
        worker.say(json!({"heartbeat": {}})).await;
        answer["lease_token"] = assignment["leaseToken"].clone();
        worker.say(json!({ "result": answer })).await;
        let ack = worker.hear_one("ack", &mut early).await;
        assert_eq!(
            ack,
            json!({"leaseToken": assignment["leaseToken"], "status": "RESULT_STATUS_ACCEPTED"})
        );
    }
    worker.say(json!({"drain": {}})).await;
    assert_eq!(
        worker.end().await,
        Some(0),
        "the server closes its side too"
    );

    let mut last = Value::Null;
    while let Some(update) = watch.hear().await {
        last = update;
    }
    assert_eq!(last["task"]["state"], "TASK_STATE_COMPLETE");
    assert_eq!(watch.end().await, Some(0));
    let whole = call(&bench, "tasker.v1.TaskService/GetTask", task.clone()).await;
    assert_eq!(
        whole["steps"][0]["attempts"][0]["error"]["errorCode"],
        "BUSY"
    );
    assert_eq!(
        whole["dependencies"],
        json!([{"step": "wave", "dependsOn": "greet"}])
    );
    let list = json!({"namespace": "grpcurl", "states": ["TASK_STATE_COMPLETE"]});
    let list = call(&bench, "tasker.v1.TaskService/ListTasks", list).await;
    assert_eq!(
        (
            list["tasks"].as_array().map(Vec::len),
            &list["nextPageToken"]
        ),
        (Some(1), &json!(""))
    );
    let cancel = json!({"task_id": submitted["taskId"], "by": "me", "reason": "too late"});
    let said = refused(&bench, "tasker.v1.TaskService/CancelTask", cancel).await;
    assert!(
        said.contains("Code: FailedPrecondition") && said.contains("complete"),
        "{said}"
    );
    let gone = async || {
        let workers = call(&bench, "tasker.v1.WorkerService/ListWorkers", json!({})).await;
        (workers["workers"] == json!([])).then_some(())
    };
    eventually("the worker's end", gone).await;
}

#[tokio::test]
#[ignore = "needs grpcurl: make test"]
async fn worker_message_out_of_order_is_refused() {
    let bench = Bench::new().await;
    let heartbeat = json!({"heartbeat": {}});
    let said = refused(&bench, "tasker.v1.WorkerService/Work", heartbeat).await;
    assert!(
        said.contains("Code: FailedPrecondition") && said.contains("`register`"),
        "{said}"
    );
}
