//! `examples/python/worker.py`, written from the proto alone, against a real server: it runs the
//! registrations, and none is lost by a crash of the worker or the server.

mod support;

use std::{
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use support::{
    TestDb,
    process::ServerProcess,
    server::{Bench, PATIENCE, eventually, finished, get, register, state, step, submit},
    tool,
};
use tasker::proto::{AttemptOutcome, GetTaskResponse, StepState, TaskState};
use tasker_worker::client::Client;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStderr, Command},
};

const REGISTRATION: &str = include_str!("fixtures/user_registration.yaml");
const NAME: &str = "user_management/user_registration";

/// The process. Dropping it kills it.
struct PythonWorker(Child);

impl PythonWorker {
    /// Each call of its handlers takes this long.
    fn start(url: &str, call: Duration) -> Self {
        let mut python = Command::new(tool("python"));
        python.arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/examples/python/worker.py"
        ));
        python
            .arg(url.trim_start_matches("http://"))
            .env("CALL_SECONDS", call.as_secs_f64().to_string());
        Self(python.kill_on_drop(true).spawn().unwrap())
    }

    /// Sends SIGTERM and returns the exit status.
    async fn terminate(mut self) -> ExitStatus {
        let pid = Pid::from_raw(self.0.id().unwrap().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        tokio::time::timeout(PATIENCE, self.0.wait())
            .await
            .expect("the worker does not end")
            .unwrap()
    }
}

fn context(email: &str, plan: &str) -> String {
    format!(r#"{{"email": "{email}", "name": "A", "plan": "{plan}"}}"#)
}

fn outcomes(task: &GetTaskResponse, name: &str) -> Vec<AttemptOutcome> {
    step(task, name)
        .attempts
        .iter()
        .map(tasker::proto::Attempt::outcome)
        .collect()
}

async fn running(client: &mut Client, task_id: &str, name: &str) {
    eventually(&format!("step {name}"), || {
        let mut client = client.clone();
        async move {
            (step(&get(&mut client, task_id).await, name).state() == StepState::InProgress)
                .then_some(())
        }
    })
    .await;
}

#[tokio::test]
#[ignore = "needs grpcio: make test"]
async fn python_worker_runs_registrations() {
    let mut bench = Bench::with(REGISTRATION).await;
    let worker = PythonWorker::start(&bench.server.url, Duration::from_millis(10));
    let mut free = Vec::new();
    for n in 0..20 {
        free.push(
            bench
                .submit(NAME, &context(&format!("u{n}@example.org"), "free"))
                .await,
        );
    }
    let pro = bench.submit(NAME, &context("pro@example.org", "pro")).await;
    let enterprise = bench
        .submit(NAME, &context("e@example.org", "enterprise"))
        .await;
    let taken = bench
        .submit(NAME, &context("taken@example.org", "free"))
        .await;

    for task_id in &free {
        let task = bench.finished(task_id).await;
        assert_eq!(state(&task), TaskState::Complete);
        let result = |name: &str| {
            serde_json::from_str::<serde_json::Value>(&step(&task, name).result_json).unwrap()
        };
        assert_eq!(
            result("update_user_status")["user_id"],
            result("create_user_account")["user_id"]
        );
    }
    let task = bench.finished(&pro).await;
    assert_eq!(state(&task), TaskState::Complete);
    let (failed, worked) = (AttemptOutcome::RetryableError, AttemptOutcome::Succeeded);
    assert_eq!(outcomes(&task, "setup_billing_profile"), [failed, worked]);
    let error = step(&task, "setup_billing_profile").attempts[0]
        .error
        .clone()
        .unwrap();
    assert_eq!(
        (error.error_code.as_str(), error.context_json.as_str()),
        ("HTTP_503", r#"{"service": "billing_service"}"#)
    );

    let task = bench.finished(&enterprise).await;
    let attempts = &step(&task, "send_welcome_sequence").attempts;
    assert_eq!(outcomes(&task, "send_welcome_sequence"), [failed, worked]);
    assert_eq!(
        attempts[0].retry_after,
        Some(prost_types::Duration {
            seconds: 1,
            nanos: 500_000_000
        })
    );

    let task = bench.finished(&taken).await;
    assert_eq!(state(&task), TaskState::Error);
    assert_eq!(
        outcomes(&task, "create_user_account"),
        [AttemptOutcome::PermanentError]
    );
    assert_eq!(
        task.task.unwrap().error.unwrap().error_code,
        "USER_CONFLICT"
    );
    assert!(worker.terminate().await.success());
}

#[tokio::test]
#[ignore = "needs grpcio: make test"]
async fn killed_python_worker_loses_nothing() {
    let mut bench = Bench::with(REGISTRATION).await;
    let mut doomed = PythonWorker::start(&bench.server.url, Duration::from_millis(300));
    let mut tasks = Vec::new();
    for n in 0..8 {
        tasks.push(
            bench
                .submit(NAME, &context(&format!("u{n}@example.org"), "free"))
                .await,
        );
    }
    running(&mut bench.client, &tasks[0], "setup_billing_profile").await;
    doomed.0.kill().await.unwrap();
    let _successor = PythonWorker::start(&bench.server.url, Duration::from_millis(10));
    for task_id in &tasks {
        assert_eq!(state(&bench.finished(task_id).await), TaskState::Complete);
    }
    let task = bench.get(&tasks[0]).await;
    let (lost, worked) = (AttemptOutcome::WorkerLost, AttemptOutcome::Succeeded);
    assert_eq!(outcomes(&task, "setup_billing_profile"), [lost, worked]);
    assert_eq!(
        step(&task, "setup_billing_profile").charged_attempts,
        0,
        "nobody is to blame for a killed worker"
    );
}

#[tokio::test]
#[ignore = "needs grpcio: make test"]
async fn killed_server_charges_no_attempt() {
    let db = TestDb::new().await;
    let mut server = ServerProcess::start(db.url());
    let address = server.address().to_owned();
    let mut client = Client::connect(&server.url).await.unwrap();
    register(&mut client, REGISTRATION).await;
    let worker = PythonWorker::start(&server.url, Duration::from_millis(800));
    let mut tasks = Vec::new();
    for n in 0..4 {
        tasks.push(
            submit(
                &mut client,
                NAME,
                &context(&format!("u{n}@example.org"), "free"),
            )
            .await,
        );
    }
    for task_id in &tasks {
        running(&mut client, task_id, "setup_billing_profile").await;
    }
    // A step in progress in the database need not have reached the worker: the server would release
    // an assignment that the kill cuts off on its way. This test needs running steps, so the worker
    // has time to receive them.
    tokio::time::sleep(Duration::from_millis(250)).await;
    server.kill();
    let _again = ServerProcess::start_at(db.url(), &address);
    let mut client = Client::connect(&server.url).await.unwrap();
    for task_id in &tasks {
        let task = finished(&mut client, task_id).await;
        assert_eq!(state(&task), TaskState::Complete);
        for step in &task.steps {
            assert_eq!(
                outcomes(&task, &step.name),
                [AttemptOutcome::Succeeded],
                "{}",
                step.name
            );
        }
    }
    assert!(worker.terminate().await.success());
}

#[tokio::test]
#[ignore = "needs grpcio: make test"]
async fn sigterm_finishes_the_running_step_and_accepts_no_other() {
    let mut bench = Bench::with(REGISTRATION).await;
    let worker = PythonWorker::start(&bench.server.url, Duration::from_secs(1));
    let task_id = bench.submit(NAME, &context("a@example.org", "free")).await;
    running(&mut bench.client, &task_id, "create_user_account").await;
    assert!(worker.terminate().await.success());
    let task = bench.get(&task_id).await;
    assert_eq!(
        outcomes(&task, "create_user_account"),
        [AttemptOutcome::Succeeded]
    );
    assert_eq!(
        step(&task, "initialize_preferences").state(),
        StepState::Ready
    );
    assert_eq!(step(&task, "initialize_preferences").attempt, 0);
}

#[tokio::test]
#[ignore = "needs grpcio: make test"]
async fn cancelled_step_stops() {
    let mut bench = Bench::with(REGISTRATION).await;
    let worker = PythonWorker::start(&bench.server.url, Duration::from_secs(600));
    let task_id = bench.submit(NAME, &context("a@example.org", "free")).await;
    running(&mut bench.client, &task_id, "create_user_account").await;
    bench.cancel(&task_id).await.unwrap();
    // The step would run for ten minutes; the worker ends at once because no step runs any more.
    assert!(worker.terminate().await.success());
}

/// Waits for a line of its log; returns how long that took.
async fn says(log: &mut Lines<BufReader<ChildStderr>>, what: &str, patience: Duration) -> Duration {
    let asked = Instant::now();
    let find = async {
        while let Some(line) = log.next_line().await.unwrap() {
            eprintln!("{line}");
            if line.contains(what) {
                return;
            }
        }
        panic!("its log ended without {what:?}");
    };
    tokio::time::timeout(patience, find)
        .await
        .unwrap_or_else(|_| panic!("it does not say {what:?} within {patience:?}"));
    asked.elapsed()
}

#[tokio::test]
#[ignore = "needs grpcio: make test"]
async fn stopped_server_is_detected_and_used_again() {
    let db = TestDb::new().await;
    let server = ServerProcess::start(db.url());
    let mut python = Command::new(tool("python"));
    python
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/examples/python/worker.py"
        ))
        .arg(server.address());
    let mut worker = python
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut log = BufReader::new(worker.stderr.take().unwrap()).lines();
    says(&mut log, "connected to", PATIENCE).await;
    server.stop();
    let noticed = says(&mut log, "no connection to", Duration::from_secs(20)).await;
    println!("noticed after {noticed:?}");
    server.go_on();
    let back = says(&mut log, "connected to", Duration::from_secs(15)).await;
    println!("registered again after {back:?}");
}

#[tokio::test]
#[ignore = "needs grpcio: make test"]
async fn worker_with_two_servers_continues_at_the_other() {
    let db = TestDb::new().await;
    let (mut one, two) = (
        ServerProcess::start(db.url()),
        ServerProcess::start(db.url()),
    );
    let mut client = Client::connect(&two.url).await.unwrap();
    register(&mut client, REGISTRATION).await;
    let mut python = Command::new(tool("python"));
    python
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/examples/python/worker.py"
        ))
        .args([one.address(), two.address()]);
    let _worker = python
        .env("CALL_SECONDS", "3")
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let task_id = submit(&mut client, NAME, &context("a@example.org", "free")).await;
    running(&mut client, &task_id, "create_user_account").await;
    // As above: the assignment must have arrived.
    tokio::time::sleep(Duration::from_millis(250)).await;
    one.kill();
    let task = finished(&mut client, &task_id).await;
    assert_eq!(state(&task), TaskState::Complete);
    assert_eq!(
        outcomes(&task, "create_user_account"),
        [AttemptOutcome::Succeeded]
    );
}

#[test]
fn test_requirements_match_the_example() {
    let pinned = include_str!("../scripts/requirements-test.txt");
    let asked: Vec<&str> = include_str!("../examples/python/requirements.txt")
        .lines()
        .collect();
    assert_eq!(asked.len(), 3);
    for requirement in asked {
        assert!(
            pinned.contains(&format!("\n{requirement} \\\n")),
            "{requirement}"
        );
    }
}
