//! The `tasker` binary against a server that answers from a script: its stdout, its stderr, and its
//! exit code.

use std::{
    net::SocketAddr,
    process::{Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use prost_types::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tasker::proto::{task_service_server::*, *};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
    process::Command,
};
use tokio_stream::{Stream, wrappers::TcpListenerStream};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

const ID: &str = "01980f4e-7c1a-7b3e-9d55-0242ac120002";

type Reply<T> = Result<Response<T>, Status>;
type Updates = std::pin::Pin<Box<dyn Stream<Item = Result<WatchTaskResponse, Status>> + Send>>;

/// Each watch gets the next of these scripts.
#[derive(Default)]
struct Script {
    watches: Vec<Vec<Result<WatchTaskResponse, Status>>>,
    next: AtomicUsize,
}

#[tonic::async_trait]
impl TaskService for Script {
    type WatchTaskStream = Updates;

    async fn submit_task(&self, request: Request<SubmitTaskRequest>) -> Reply<SubmitTaskResponse> {
        let request = request.into_inner();
        if request.context_json.is_empty() {
            let details =
                ErrorDetails::with_bad_request_violation("context_json/email", "is missing");
            return Err(Status::with_error_details(
                Code::InvalidArgument,
                "the context does not match the schema",
                details,
            ));
        }
        let (correlation_id, version) = ("c-1".into(), "1.0.0".into());
        Ok(Response::new(SubmitTaskResponse {
            task_id: ID.into(),
            created: true,
            correlation_id,
            version,
        }))
    }

    async fn submit_tasks(&self, _: Request<SubmitTasksRequest>) -> Reply<SubmitTasksResponse> {
        Err(Status::unimplemented(""))
    }

    type OrderTasksStream = tokio_stream::Pending<Result<OrderTasksResponse, Status>>;

    async fn order_tasks(&self, _: Request<OrderTasksRequest>) -> Reply<Self::OrderTasksStream> {
        Err(Status::unimplemented(""))
    }

    async fn retry_task(&self, _: Request<RetryTaskRequest>) -> Reply<RetryTaskResponse> {
        Err(Status::unimplemented(""))
    }

    async fn resolve_task(&self, _: Request<ResolveTaskRequest>) -> Reply<ResolveTaskResponse> {
        Err(Status::unimplemented(""))
    }

    async fn skip_step(&self, _: Request<SkipStepRequest>) -> Reply<SkipStepResponse> {
        Err(Status::unimplemented(""))
    }

    async fn pause_task(&self, _: Request<PauseTaskRequest>) -> Reply<PauseTaskResponse> {
        Err(Status::unimplemented(""))
    }

    async fn resume_task(&self, _: Request<ResumeTaskRequest>) -> Reply<ResumeTaskResponse> {
        Err(Status::unimplemented(""))
    }

    async fn pause_template(
        &self,
        _: Request<PauseTemplateRequest>,
    ) -> Reply<PauseTemplateResponse> {
        Err(Status::unimplemented(""))
    }

    async fn resume_template(
        &self,
        _: Request<ResumeTemplateRequest>,
    ) -> Reply<ResumeTemplateResponse> {
        Err(Status::unimplemented(""))
    }

    async fn list_pauses(&self, _: Request<ListPausesRequest>) -> Reply<ListPausesResponse> {
        Err(Status::unimplemented(""))
    }

    async fn explain_task(&self, _: Request<ExplainTaskRequest>) -> Reply<ExplainTaskResponse> {
        Err(Status::unimplemented(""))
    }

    async fn get_step(&self, _: Request<GetStepRequest>) -> Reply<GetStepResponse> {
        Err(Status::unimplemented(""))
    }

    async fn get_task(&self, _: Request<GetTaskRequest>) -> Reply<GetTaskResponse> {
        let WatchTaskResponse { task, steps } = update(TaskState::Complete, StepState::Complete);
        let dependencies = vec![Dependency {
            step: "ship".into(),
            depends_on: "pay".into(),
        }];
        Ok(Response::new(GetTaskResponse {
            task,
            steps,
            dependencies,
        }))
    }

    /// 1,234 tasks in pages; the token is the offset.
    async fn list_tasks(&self, request: Request<ListTasksRequest>) -> Reply<ListTasksResponse> {
        let request = request.into_inner();
        let from = request.page_token.parse().unwrap_or(0);
        let to = (from + request.page_size).min(1_234);
        let tasks = (from..to)
            .map(|n| Task {
                task_id: format!("task-{n}"),
                ..Task::default()
            })
            .collect();
        let next_page_token = if to < 1_234 {
            to.to_string()
        } else {
            String::new()
        };
        Ok(Response::new(ListTasksResponse {
            tasks,
            next_page_token,
        }))
    }

    async fn watch_task(&self, _: Request<WatchTaskRequest>) -> Reply<Updates> {
        match self.watches.get(self.next.fetch_add(1, Ordering::SeqCst)) {
            Some(script) => Ok(Response::new(Box::pin(tokio_stream::iter(script.clone())))),
            None => Ok(Response::new(Box::pin(tokio_stream::pending()))),
        }
    }

    async fn cancel_task(&self, request: Request<CancelTaskRequest>) -> Reply<CancelTaskResponse> {
        let CancelTaskRequest { by, reason, .. } = request.into_inner();
        let task = Task {
            state: TaskState::Cancelled.into(),
            cancelled_by: by,
            cancel_reason: reason,
            ..Task::default()
        };
        Ok(Response::new(CancelTaskResponse { task: Some(task) }))
    }
}

/// A task with two steps: the second one waits until the first is complete.
fn update(state: TaskState, pay: StepState) -> WatchTaskResponse {
    let at = |seconds: i64| {
        Some(Timestamp {
            seconds: 1_767_225_600 + seconds,
            nanos: 0,
        })
    };
    let ship = if pay == StepState::Complete {
        StepState::Complete
    } else {
        StepState::Pending
    };
    let step = |name: &str, state: StepState, depends_on: &[&str]| Step {
        name: name.into(),
        state: state.into(),
        depends_on: depends_on.iter().map(|d| (*d).into()).collect(),
        attempt: 1,
        retry_limit: 3,
        started_at: at(0),
        ended_at: at(2),
        result_json: "9007199254740993".into(),
        ..Step::default()
    };
    let steps = vec![step("pay", pay, &[]), step("ship", ship, &["pay"])];
    let task = Task {
        task_id: ID.into(),
        namespace: "shop".into(),
        task_name: "checkout".into(),
        version: "1.0.0".into(),
        state: state.into(),
        started_at: at(0),
        ended_at: at(2),
        steps_total: 2,
        ..Task::default()
    };
    WatchTaskResponse {
        task: Some(task),
        steps,
    }
}

async fn serve(script: Script) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let service = TaskServiceServer::from_arc(Arc::new(script));
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

fn tasker(server: SocketAddr, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tasker"));
    command
        .args(args)
        .env("TASKER_SERVER", format!("http://{server}"))
        .env("LC_ALL", "C.UTF-8")
        .env("USER", "ann");
    command
        .env_remove("NO_COLOR")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn run(script: Script, args: &[&str]) -> (i32, String, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = tasker(serve(script).await, args)
        .output()
        .await
        .expect("it runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (
        status.code().expect("no signal"),
        text(stdout),
        text(stderr),
    )
}

#[tokio::test]
async fn submit_prints_only_the_id() {
    let (code, stdout, stderr) = run(
        Script::default(),
        &["task", "submit", "shop/checkout", "--context", "{}"],
    )
    .await;
    assert_eq!((code, stdout), (0, format!("{ID}\n")));
    assert!(
        stderr.starts_with("submitted shop/checkout@1.0.0, correlation id c-1\n"),
        "{stderr}"
    );
}

#[tokio::test]
async fn refused_submit_lists_the_violations() {
    let (code, stdout, stderr) = run(Script::default(), &["task", "submit", "shop/checkout"]).await;
    assert_eq!((code, stdout.as_str()), (65, ""));
    assert_eq!(
        stderr,
        "error: cannot submit shop/checkout: the context does not match the schema\n  context_json/email: is missing\n"
    );
}

#[tokio::test]
async fn list_fetches_all_pages_and_reports_truncation() {
    let (code, stdout, stderr) = run(
        Script::default(),
        &["task", "list", "--limit", "1100", "--json"],
    )
    .await;
    let tasks = serde_json::from_str::<Value>(&stdout).expect("one document");
    assert_eq!(
        (code, tasks["tasks"].as_array().map(Vec::len)),
        (0, Some(1_100))
    );
    assert_eq!(
        stderr,
        "older tasks are not listed; raise --limit above 1100 to see them\n"
    );

    let (_, stdout, stderr) = run(Script::default(), &["task", "list", "--limit", "2000"]).await;
    assert_eq!((stdout.lines().count(), stderr.as_str()), (1_235, ""));
}

#[tokio::test]
async fn closed_pipe_is_not_an_error() {
    let server = serve(Script::default()).await;
    let mut list = tasker(server, &["task", "list", "--limit", "2000"]);
    let mut list = list
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    drop(list.stdout.take());
    let Output { status, stderr, .. } = list.wait_with_output().await.expect("it ends");
    assert_eq!((status.code(), stderr), (Some(0), Vec::new()));
}

#[tokio::test]
async fn get_keeps_all_digits() {
    let (code, stdout, _) = run(Script::default(), &["task", "get", ID, "--json"]).await;
    assert_eq!(code, 0);
    assert!(stdout.contains("\"result\": 9007199254740993,"), "{stdout}");
    assert!(stdout.contains("\"dependencies\": ["), "{stdout}");
}

#[tokio::test]
async fn cancel_sends_its_author() {
    let (code, stdout, _) = run(
        Script::default(),
        &["task", "cancel", ID, "--reason", "a test", "--json"],
    )
    .await;
    let document = serde_json::from_str::<Value>(&stdout).expect("one document");
    assert_eq!(
        (code, &document["task"]["cancelled_by"]),
        (0, &Value::from("ann"))
    );
}

#[tokio::test]
async fn order_without_user_variable_uses_the_name_of_the_uid() {
    let cancel = ["task", "cancel", ID, "--reason", "a test", "--json"];
    let by = async |more: &[(&str, &str)]| {
        let mut command = tasker(serve(Script::default()).await, &cancel);
        command
            .env_remove("USER")
            .env_remove("LOGNAME")
            .envs(more.iter().copied());
        let Output {
            status,
            stdout,
            stderr,
        } = command.output().await.expect("it runs");
        assert_eq!(
            status.code(),
            Some(0),
            "{}",
            String::from_utf8_lossy(&stderr)
        );
        let document = serde_json::from_slice::<Value>(&stdout).expect("one document");
        document["task"]["cancelled_by"]
            .as_str()
            .expect("a name")
            .to_owned()
    };
    assert_eq!(by(&[("USER", " "), ("LOGNAME", "bea")]).await, "bea");
    // The name of the process's user on this machine, or else its number.
    let id = async |more: &[&str]| {
        let output = Command::new("id")
            .args(more)
            .output()
            .await
            .expect("it runs");
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    };
    let expected = match id(&["-un"]).await {
        Some(name) => name,
        None => format!("uid-{}", id(&["-u"]).await.expect("a number")),
    };
    assert_eq!(by(&[]).await, expected);
}

#[tokio::test]
async fn submit_reads_the_context_from_stdin() {
    for dash in ["-", "@-"] {
        for (text, code) in [("{\"a\": 1}", 0), ("{", 65)] {
            let args = ["task", "submit", "shop/checkout", "--context", dash];
            let mut submit = tasker(serve(Script::default()).await, &args);
            submit
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
            let mut submit = submit.spawn().expect("it runs");
            submit
                .stdin
                .take()
                .expect("piped")
                .write_all(text.as_bytes())
                .await
                .expect("it reads");
            let Output { status, stderr, .. } = submit.wait_with_output().await.expect("it ends");
            assert_eq!(
                status.code(),
                Some(code),
                "{dash} {text}: {}",
                String::from_utf8_lossy(&stderr)
            );
        }
    }
}

#[tokio::test]
async fn watch_reconnects_after_a_server_restart_and_ends_with_the_task() {
    for (state, expected) in [
        (TaskState::Complete, 0),
        (TaskState::Error, 3),
        (TaskState::Cancelled, 4),
    ] {
        let script = Script {
            watches: vec![
                vec![
                    Ok(update(TaskState::InProgress, StepState::InProgress)),
                    Err(Status::unavailable("draining")),
                ],
                vec![Ok(update(state, StepState::Complete))],
            ],
            ..Script::default()
        };
        let (code, stdout, stderr) = run(script, &["task", "watch", ID]).await;
        assert_eq!(code, expected, "{stderr}");
        assert_eq!(stderr, "the connection is lost (draining); reconnecting\n");
        let last = stdout.lines().last().unwrap_or_default();
        let word = state
            .as_str_name()
            .trim_start_matches("TASK_STATE_")
            .to_lowercase();
        assert!(
            last.starts_with(&format!(
                "2026-01-01T00:00:02.000Z  task  {word:17}  0/2 steps, 2.0 s"
            )),
            "{stdout}"
        );
        assert_eq!(stdout.lines().count(), 5, "{stdout}");
    }
}

#[tokio::test]
async fn watch_that_never_connected_fails_immediately() {
    let script = Script {
        watches: vec![vec![Err(Status::not_found("no such task"))]],
        ..Script::default()
    };
    let (code, _, stderr) = run(script, &["task", "watch", ID]).await;
    assert_eq!(
        (code, stderr),
        (1, format!("error: cannot watch {ID}: no such task\n"))
    );
}

#[cfg(unix)]
#[tokio::test]
async fn ctrl_c_ends_the_watch_and_not_the_task() {
    let running = vec![
        Ok(update(TaskState::InProgress, StepState::InProgress)),
        Err(Status::unavailable("x")),
    ];
    let server = serve(Script {
        watches: vec![running],
        ..Script::default()
    })
    .await;
    let mut watch = tasker(server, &["task", "watch", ID, "--json"]);
    let mut watch = watch
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut lines = BufReader::new(watch.stdout.take().expect("piped")).lines();
    let first = lines.next_line().await.expect("readable").expect("a line");
    assert_eq!(
        serde_json::from_str::<Value>(&first).expect("a document")["task"]["state"],
        "in_progress"
    );

    let pid = watch
        .id()
        .and_then(|pid| Pid::from_raw(pid.cast_signed()))
        .expect("running");
    kill_process(pid, Signal::INT).expect("it can be told");
    let Output { status, stderr, .. } = watch.wait_with_output().await.expect("it ends");
    let stderr = String::from_utf8_lossy(&stderr);
    assert_eq!(status.code(), Some(130), "{stderr}");
    assert!(
        stderr.contains(&format!("the task continues: `tasker task watch {ID}`")),
        "{stderr}"
    );
}
