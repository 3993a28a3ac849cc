//! Sizes of assignments: no worker gets more than it accepts, and no step waits for ever for a
//! worker that accepts it.

use std::time::Duration;

use prost::Message as _;
use tasker::{
    proto::{Register, StepAssignment, SubmitTaskRequest, TaskState, WaitCause},
    server::ServerConfig,
};

use crate::support::{
    TestDb,
    invariants::invariants,
    server::{
        Bench, TestServer, eventually, explained, finished, get, register, state, step, submission,
        submit,
    },
    worker::{RawWorker, registration, success},
};

/// Two roots and a step that depends on both.
fn join(name: &str, inputs: &str) -> String {
    format!(
        "{{namespace: t, task_name: {name}, version: 1.0.0, step_templates: [{{name: a, handler: h}}, {{name: b, handler: h}},
           {{name: join, handler: j, depends_on_steps: [a, b]{inputs}}}]}}"
    )
}

const SMALL: &str =
    "{namespace: t, task_name: small, version: 1.0.0, step_templates: [{name: only, handler: j}]}";
/// Less than both results of [`join`] together, and more than one.
const LIMIT: i32 = 300 << 10;

/// JSON of `n` bytes.
fn document(n: usize) -> String {
    format!("\"{}\"", "x".repeat(n - 2))
}

fn limited(handlers: &[&str], max_assignment_bytes: i32) -> Register {
    Register {
        max_assignment_bytes,
        ..registration(handlers, 16)
    }
}

/// Answers both roots with results of 200 KB.
async fn roots(bench: &mut Bench, name: &str) -> String {
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit(&format!("t/{name}"), "{}").await;
    for _ in 0..2 {
        let assignment = worker.assignment().await;
        worker
            .settle(&assignment, success(&document(200_000)))
            .await;
    }
    id
}

#[tokio::test]
async fn large_assignment_goes_to_a_worker_with_a_sufficient_limit() {
    let mut bench = Bench::with(&join("join", "")).await;
    register(&mut bench.client, SMALL).await;
    let mut little = RawWorker::open(&bench.server.url, limited(&["j"], LIMIT))
        .await
        .unwrap();
    let large = roots(&mut bench, "join").await;
    let small = bench.submit("t/small", "{}").await;
    let assignment = little.assignment().await;
    assert_eq!(
        assignment.task_id, small,
        "what it can take does not wait behind what it cannot"
    );
    little.settle(&assignment, success("1")).await;
    let mut big = RawWorker::open(&bench.server.url, limited(&["j"], 16 << 20))
        .await
        .unwrap();
    let assignment = big.assignment().await;
    assert_eq!(
        (assignment.task_id.as_str(), assignment.attempt),
        (large.as_str(), 1)
    );
    assert_eq!(assignment.results_json.len(), 2);
    big.settle(&assignment, success("1")).await;
    assert_eq!(state(&bench.finished(&large).await), TaskState::Complete);
    invariants(&bench.db.connect().await).await;
}

#[tokio::test]
async fn step_too_large_for_all_workers_fails_after_a_lease() {
    let mut bench = Bench::with(&join("join", "")).await;
    let _little = RawWorker::open(&bench.server.url, limited(&["j"], LIMIT))
        .await
        .unwrap();
    let id = roots(&mut bench, "join").await;
    let mut client = bench.server.client().await;
    let explanation = explained(&mut client, &id).await;
    let wait = &explanation
        .steps
        .iter()
        .find(|s| s.step == "join")
        .unwrap()
        .waits[0];
    assert_eq!(wait.cause(), WaitCause::TooLarge, "{}", wait.message);
    assert!(
        wait.until.is_some()
            && wait
                .message
                .contains("largest of which is 300.0 KiB; it fails in"),
        "{}",
        wait.message
    );
    let task = bench.finished(&id).await;
    assert_eq!(state(&task), TaskState::Error);
    let error = step(&task, "join").error.as_ref().unwrap();
    assert_eq!(
        (error.error_code.as_str(), step(&task, "join").attempt),
        ("ASSIGNMENT_TOO_LARGE", 0)
    );
    assert!(
        error.message.contains("(307200 bytes)") && error.message.contains("`inputs`"),
        "{}",
        error.message
    );
    invariants(&bench.db.connect().await).await;
}

#[tokio::test]
async fn step_receives_only_the_results_named_as_inputs() {
    let mut bench = Bench::with(&join("join", ", inputs: [b]")).await;
    register(&mut bench.client, &join("none", ", inputs: []")).await;
    let mut little = RawWorker::open(&bench.server.url, limited(&["j"], LIMIT))
        .await
        .unwrap();
    for (name, expected) in [("join", vec!["b"]), ("none", vec![])] {
        let id = roots(&mut bench, name).await;
        let assignment = little.assignment().await;
        assert_eq!(assignment.task_id, id);
        assert_eq!(assignment.results_json.keys().collect::<Vec<_>>(), expected);
        little.settle(&assignment, success("1")).await;
        assert_eq!(state(&bench.finished(&id).await), TaskState::Complete);
    }
}

/// The size in the queue's row is never less than the size of the message, and not much more.
#[tokio::test]
async fn computed_assignment_size_equals_the_message_size() {
    let mut bench = Bench::with(&join("join", "")).await;
    let id = roots(&mut bench, "join").await;
    let db = bench.db.connect().await;
    let known = db
        .query_one(
            "SELECT assignment_bytes FROM queue WHERE task_id = $1::text::uuid",
            &[&id],
        )
        .await
        .unwrap();
    let known = usize::try_from(known.get::<_, i32>(0)).unwrap();
    let mut worker = RawWorker::connect(&bench.server.url, &["j"]).await;
    let assignment: StepAssignment = worker.assignment().await;
    let sent = assignment.encoded_len();
    assert!((sent..sent + 4_096).contains(&known), "{known} for {sent}");
}

#[tokio::test]
async fn assignment_limit_out_of_bounds_is_refused() {
    let bench = Bench::new().await;
    for (limit, fits) in [
        (0, true),
        (64 << 10, true),
        (64 << 20, true),
        ((64 << 10) - 1, false),
        ((64 << 20) + 1, false),
        (-1, false),
    ] {
        let opened = RawWorker::open(&bench.server.url, limited(&["j"], limit)).await;
        let refused = opened.err().map(|status| status.message().to_owned());
        assert_eq!(refused.is_none(), fits, "{limit}: {refused:?}");
        assert!(refused.is_none_or(|message| message.contains("max_assignment_bytes")));
    }
}

/// A worker that reconnects without naming its assignment has not received it.
#[tokio::test]
async fn undeliverable_assignment_backs_off_and_ends_its_step() {
    let mut bench =
        Bench::with("{namespace: t, task_name: one, version: 1.0.0, step_templates: [{name: only, handler: h}]}").await;
    let db = bench.db.connect().await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/one", "{}").await;
    for attempt in 1..=3 {
        assert_eq!(worker.assignment().await.attempt, attempt);
        if attempt == 3 {
            // The remaining lost attempts, up to ten, would take minutes.
            db.execute("UPDATE queue SET lost = 9", &[]).await.unwrap();
        }
        let previous_worker_id = worker.registered.worker_id.clone();
        worker = RawWorker::open(
            &bench.server.url,
            Register {
                previous_worker_id,
                ..registration(&["h"], 1)
            },
        )
        .await
        .unwrap();
    }
    let task = bench.finished(&id).await;
    let only = step(&task, "only");
    assert_eq!(only.error.as_ref().unwrap().error_code, "UNDELIVERED");
    assert_eq!((only.attempt, only.charged_attempts), (3, 0));
    let pause = |i: usize| {
        let time = |at: &Option<prost_types::Timestamp>| {
            std::time::SystemTime::try_from(at.unwrap()).unwrap()
        };
        time(&only.attempts[i + 1].started_at)
            .duration_since(time(&only.attempts[i].ended_at))
            .unwrap_or_default()
    };
    assert!(pause(1) >= Duration::from_millis(400), "{:?}", pause(1));
}

#[tokio::test]
async fn worker_that_reads_nothing_loses_its_stream_at_the_bound() {
    const TASKS: usize = 30;
    let db = TestDb::new().await;
    let config = ServerConfig {
        lease: Duration::from_secs(6),
        ..Default::default()
    };
    let server = TestServer::start_with(&db, config).await;
    let mut client = server.client().await;
    register(&mut client, "{namespace: t, task_name: one, version: 1.0.0, step_templates: [{name: only, handler: h}]}")
        .await;
    let many = || Register {
        max_concurrent_steps: 1_000,
        ..limited(&["h"], 4 << 20)
    };
    let context = format!("{{\"d\": {}}}", document(1_000_000));
    for i in 0..TASKS {
        // The key keeps a repeated submit from storing a second task.
        let request = SubmitTaskRequest {
            idempotency_key: format!("k{i}"),
            ..submission("t/one", &context)
        };
        eventually("a submit", || async {
            client.clone().tasks.submit_task(request.clone()).await.ok()
        })
        .await;
    }
    let deaf = RawWorker::open(&server.url, many()).await.unwrap();
    let sql = db.connect().await;
    let running = async || {
        let row = sql
            .query_one(
                "SELECT count(*) FROM queue WHERE worker_id = $1::text::uuid",
                &[&deaf.registered.worker_id],
            )
            .await;
        row.unwrap().get::<_, i64>(0)
    };
    let handed_out = eventually("a full outbox", || async {
        Some(running().await).filter(|n| *n >= 14)
    })
    .await;
    assert!(
        handed_out <= 24,
        "{handed_out} of {TASKS} MB are on their way to a worker that reads none"
    );
    // The server ends the stream, and the worker keeps its leases as long as it could come back.
    let mut other = RawWorker::open(&server.url, many()).await.unwrap();
    for _ in 0..TASKS - usize::try_from(handed_out).unwrap() {
        let assignment = other.assignment().await;
        other.settle(&assignment, success("1")).await;
    }
    eventually("the end of the stream", || async {
        let row = sql
            .query_one("SELECT count(*) FROM workers WHERE ended_at IS NULL", &[])
            .await
            .unwrap();
        (row.get::<_, i64>(0) == 1).then_some(())
    })
    .await;
    for _ in 0..handed_out {
        let assignment = other.assignment().await;
        other.settle(&assignment, success("1")).await;
    }
}

/// Server B assigns the planner and server A settles it, while B keeps the task's documents in
/// memory.
#[tokio::test]
async fn plan_applies_to_steps_dispatched_by_any_server() {
    let db = TestDb::new().await;
    let (a, b) = (TestServer::start(&db).await, TestServer::start(&db).await);
    let (mut at_a, mut at_b) = (a.client().await, b.client().await);
    let yaml = "{namespace: t, task_name: planned, version: 1.0.0, planner: p, step_templates: [
                  {name: one, handler: h, handler_config: {mode: template}}, {name: two, handler: h, depends_on_step: one}]}";
    register(&mut at_a, yaml).await;
    let mut worker = RawWorker::connect(&b.url, &["h"]).await;
    let mut planner_of_b = RawWorker::connect(&b.url, &["p"]).await;
    let id = submit(&mut at_b, "t/planned", "{}").await;
    let plan = planner_of_b.assignment().await;
    let reconnect = Register {
        previous_worker_id: planner_of_b.registered.worker_id.clone(),
        held_leases: vec![plan.lease_token.clone()],
        ..registration(&["p"], 1)
    };
    let mut planner_of_a = RawWorker::open(&a.url, reconnect).await.unwrap();
    assert_eq!(
        planner_of_a.registered.kept_leases,
        std::slice::from_ref(&plan.lease_token)
    );
    let answer = r#"{"steps": {"one": {"handler_config": {"mode": "planned"}, "retry_limit": 9},
                               "two": {"retry_limit": 7}}, "annotations": {"by": "planner"}, "priority": 5}"#;
    planner_of_a.settle(&plan, success(answer)).await;
    for (name, retry_limit) in [("one", 9), ("two", 7)] {
        let assignment = worker.assignment().await;
        assert_eq!(
            (assignment.step_name.as_str(), assignment.retry_limit),
            (name, retry_limit)
        );
        assert!(
            assignment.annotations_json.contains("\"by\":\"planner\""),
            "{}",
            assignment.annotations_json
        );
        if name == "one" {
            assert!(
                assignment.handler_config_json.contains("planned"),
                "{}",
                assignment.handler_config_json
            );
        }
        worker.settle(&assignment, success("1")).await;
    }
    let task = finished(&mut at_a, &id).await;
    assert_eq!(state(&task), TaskState::Complete);
    assert_eq!(get(&mut at_b, &id).await.task.unwrap().priority, 5);
}
