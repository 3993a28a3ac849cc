//! The golden shapes run to their end on the Rust SDK: each step starts exactly as often as it
//! must, and never before its parents ended.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use tasker::proto::{self, StepState, TaskState};
use tasker_worker::{RetryableError, StepContext, StepError, Worker, WorkerHandle};

use crate::support::server::{Bench, state, step};

const LINEAR: &str = include_str!("../fixtures/linear.yaml");
const DIAMOND: &str = include_str!("../fixtures/diamond.yaml");
const SEED: &str = include_str!("../fixtures/user_registration.yaml");

/// Number of starts of each step.
type Starts = Arc<Mutex<HashMap<String, usize>>>;

fn golden_worker(url: &str) -> (WorkerHandle, Starts) {
    let starts = Starts::default();
    let count = |starts: &Starts| {
        let starts = Arc::clone(starts);
        move |step: &StepContext| {
            *starts
                .lock()
                .unwrap()
                .entry(step.step_name().to_owned())
                .or_default() += 1;
        }
    };
    let (ok, flaky, slow) = (count(&starts), count(&starts), count(&starts));
    let worker = Worker::builder([url.to_owned()])
        .name("golden")
        .handler("golden.ok", move |step: StepContext| {
            ok(&step);
            async move { Ok(json!({ "step": step.step_name() })) }
        })
        .handler("golden.flaky", move |step: StepContext| {
            flaky(&step);
            async move {
                let config: Value = step.handler_config()?;
                let failures = config["failures"].as_i64().unwrap_or(0);
                match i64::from(step.attempt()) <= failures {
                    true => Err::<Value, _>(StepError::from(RetryableError::new("flaky"))),
                    false => Ok(json!(step.attempt())),
                }
            }
        })
        .handler("golden.slow_once", move |step: StepContext| {
            slow(&step);
            async move {
                if step.attempt() == 1 {
                    tokio::time::sleep(Duration::from_secs(30)).await;
                }
                Ok(json!(null))
            }
        })
        .build()
        .unwrap();
    (worker.spawn(), starts)
}

/// Asserts that no step started before all its parents ended.
fn in_order(task: &proto::GetTaskResponse) {
    let at = |t: Option<prost_types::Timestamp>| SystemTime::try_from(t.unwrap()).unwrap();
    for edge in &task.dependencies {
        let (child, parent) = (step(task, &edge.step), step(task, &edge.depends_on));
        let started = child
            .attempts
            .iter()
            .map(|a| at(a.started_at))
            .min()
            .unwrap();
        assert!(
            at(parent.ended_at) <= started,
            "{} started before {} ended",
            edge.step,
            edge.depends_on
        );
    }
}

#[tokio::test]
async fn linear_shape_completes_in_order() {
    let mut bench = Bench::with(LINEAR).await;
    let (worker, starts) = golden_worker(&bench.server.url);
    let id = bench.submit("golden/linear", "{}").await;
    let task = bench.finished(&id).await;
    assert_eq!(state(&task), TaskState::Complete);
    in_order(&task);
    let starts = starts.lock().unwrap().clone();
    assert_eq!(starts.len(), 6);
    for (name, n) in starts {
        assert_eq!(n, if name == "process_data" { 2 } else { 1 }, "{name}");
    }
    worker.shutdown().await.unwrap();
}

#[tokio::test]
async fn diamond_shape_completes_in_order() {
    let mut bench = Bench::with(DIAMOND).await;
    let (worker, starts) = golden_worker(&bench.server.url);
    let id = bench.submit("golden/diamond", "{}").await;
    let task = bench.finished(&id).await;
    assert_eq!(state(&task), TaskState::Complete);
    in_order(&task);
    let starts = starts.lock().unwrap().clone();
    assert_eq!(starts.len(), 7);
    for (name, n) in starts {
        assert_eq!(n, if name.ends_with("_process") { 2 } else { 1 }, "{name}");
    }
    worker.shutdown().await.unwrap();
}

#[tokio::test]
async fn seed_template_registers_verbatim_and_runs() {
    let mut bench = Bench::with(SEED).await;
    let name = |step: &str| format!("UserManagement::StepHandlers::{step}Handler");
    let mut builder = Worker::builder([bench.server.url.clone()]);
    for handler in [
        "CreateUserAccount",
        "SetupBillingProfile",
        "InitializePreferences",
        "SendWelcomeSequence",
        "UpdateUserStatus",
    ] {
        builder = builder.handler(name(handler), |step: StepContext| async move {
            let context: Value = step.context()?;
            Ok(json!({ "for": context["email"], "ancestors": step.results().len() }))
        });
    }
    let worker = builder.build().unwrap().spawn();
    let id = bench
        .submit(
            "user_management/user_registration",
            r#"{"email":"a@b.co","name":"A"}"#,
        )
        .await;
    let task = bench.finished(&id).await;
    assert_eq!(state(&task), TaskState::Complete);
    in_order(&task);
    assert!(
        task.steps
            .iter()
            .all(|s| s.state() == StepState::Complete && s.attempts.len() == 1)
    );
    let last: Value = serde_json::from_str(&step(&task, "update_user_status").result_json).unwrap();
    assert_eq!(last, json!({ "for": "a@b.co", "ancestors": 4 }));
    worker.shutdown().await.unwrap();
}
