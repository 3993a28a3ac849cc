//! The metrics match the events that happened.

use std::time::Duration;

use tasker::proto::{ResolveTaskRequest, SkipStepRequest};

use crate::{
    scrape::Scrape,
    support::{
        TestDb, own_cluster,
        server::{Bench, TestServer, register},
        worker::{RawWorker, permanent},
    },
    work::{ONE, work},
};

const OTHER: &str = "
task_name: other
namespace: t
version: 1.0.0
step_templates:
  - {name: a, handler_class: nobody}
";

type Label = (&'static str, &'static str);
/// The name of a metric, some of its labels, and the sum of all samples with these labels.
type Count = (&'static str, Vec<Label>, f64);

const TASK: &[Label] = &[("namespace", "t"), ("task_name", "one")];
const LANE: &[Label] = &[("namespace", "t"), ("handler", "h"), ("service", "s")];
const NOBODY: &[Label] = &[
    ("namespace", "t"),
    ("handler", "nobody"),
    ("service", "nobody"),
];

fn with(more: Label, of: &[Label]) -> Vec<Label> {
    [of, &[more]].concat()
}

fn of_tasks_and_steps() -> Vec<Count> {
    vec![
        ("tasker_tasks_submitted_total", TASK.to_vec(), 6.0),
        (
            "tasker_tasks_submitted_total",
            vec![("task_name", "other")],
            2.0,
        ),
        (
            "tasker_tasks_ended_total",
            with(("state", "complete"), TASK),
            2.0,
        ),
        (
            "tasker_tasks_ended_total",
            with(("state", "error"), TASK),
            1.0,
        ),
        (
            "tasker_tasks_ended_total",
            with(("state", "cancelled"), TASK),
            1.0,
        ),
        ("tasker_steps_completed_total", LANE.to_vec(), 2.0),
        ("tasker_steps_failed_total", LANE.to_vec(), 1.0),
        ("tasker_steps_retried_total", LANE.to_vec(), 1.0),
    ]
}

fn of_attempts_and_queues() -> Vec<Count> {
    vec![
        (
            "tasker_step_attempts_total",
            with(("outcome", "succeeded"), LANE),
            2.0,
        ),
        (
            "tasker_step_attempts_total",
            with(("outcome", "retryable_error"), LANE),
            1.0,
        ),
        (
            "tasker_step_attempts_total",
            with(("outcome", "permanent_error"), LANE),
            1.0,
        ),
        (
            "tasker_step_attempts_total",
            with(("outcome", "cancelled"), LANE),
            1.0,
        ),
        (
            "tasker_step_attempts_total",
            with(("outcome", "released"), LANE),
            1.0,
        ),
        (
            "tasker_step_attempts_total",
            with(("outcome", "worker_lost"), LANE),
            0.0,
        ),
        ("tasker_step_attempts_total", NOBODY.to_vec(), 0.0),
        ("tasker_step_run_seconds_count", LANE.to_vec(), 4.0),
        // The first attempt took 120 ms, all others less than that.
        (
            "tasker_step_run_seconds_bucket",
            with(("le", "+Inf"), LANE),
            4.0,
        ),
        (
            "tasker_step_run_seconds_bucket",
            with(("le", "0.1"), LANE),
            3.0,
        ),
        ("tasker_queue_ready_steps", NOBODY.to_vec(), 2.0),
        ("tasker_queue_ready_steps", LANE.to_vec(), 0.0),
        ("tasker_queue_oldest_ready_seconds", LANE.to_vec(), 0.0),
    ]
}

fn of_the_server() -> Vec<Count> {
    vec![
        ("tasker_workers_connected", vec![], 1.0),
        ("tasker_slots_used", vec![], 2.0),
        ("tasker_slots_free", vec![], 14.0),
        ("tasker_event_subscribers", vec![], 0.0),
        ("tasker_event_lag_seconds", vec![], 0.0),
        (
            "tasker_transaction_inputs_sum",
            vec![("loop", "intake")],
            8.0,
        ),
        ("tasker_commit_seconds_count", vec![("loop", "intake")], 8.0),
        ("tasker_collisions_total", vec![], 0.0),
        ("tasker_liveness_found_total", vec![], 0.0),
        ("tasker_liveness_violations", vec![], 0.0),
        ("tasker_circuit_state", vec![("state", "open")], 0.0),
        ("tasker_database_up", vec![], 1.0),
        ("tasker_draining", vec![], 0.0),
        (
            "tasker_build_info",
            vec![("version", env!("CARGO_PKG_VERSION"))],
            1.0,
        ),
    ]
}

#[tokio::test]
async fn each_event_is_counted_once() {
    let mut bench = Bench::with(ONE).await;
    register(&mut bench.client, OTHER).await;
    let _worker = work(&mut bench).await;
    bench.submit("t/other", "{}").await;
    bench.submit("t/other", "{}").await;
    let scrape = Scrape::of(&bench.server.url).await;
    let counts = [
        of_tasks_and_steps(),
        of_attempts_and_queues(),
        of_the_server(),
    ];
    for (name, labels, expected) in counts.into_iter().flatten() {
        assert_eq!(
            scrape.sum(name, &labels),
            Some(expected),
            "{name} {labels:?}\n{}",
            scrape.text
        );
    }
    let run = scrape.sum("tasker_step_run_seconds_sum", LANE).unwrap();
    assert!((0.12..2.0).contains(&run), "{run}");
    let waits = scrape
        .sum("tasker_queue_oldest_ready_seconds", NOBODY)
        .unwrap();
    assert!((0.0..20.0).contains(&waits) && waits > 0.0, "{waits}");
}

#[tokio::test]
async fn orders_of_operators_are_counted() {
    let mut bench = Bench::with(ONE).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let mut failed = Vec::new();
    for _ in 0..3 {
        failed.push(bench.submit("t/one", "{}").await);
        let step = worker.assignment().await;
        worker.settle(&step, permanent("no", "NO")).await;
    }
    let (by, reason) = ("ann".to_owned(), "a test".to_owned());
    let skip = SkipStepRequest {
        task_id: failed[0].clone(),
        step: "a".into(),
        by: by.clone(),
        reason: reason.clone(),
    };
    bench.client.tasks.skip_step(skip).await.unwrap();
    for (id, step) in [(&failed[1], "a"), (&failed[2], "")] {
        let (task_id, step, by, reason) = (id.clone(), step.to_owned(), by.clone(), reason.clone());
        let resolve = ResolveTaskRequest {
            task_id,
            step,
            by,
            reason,
            ..Default::default()
        };
        bench.client.tasks.resolve_task(resolve).await.unwrap();
    }
    let scrape = Scrape::of(&bench.server.url).await;
    for (name, labels, expected) in [
        ("tasker_steps_skipped_total", vec![("handler", "h")], 1.0),
        ("tasker_steps_resolved_total", vec![("handler", "h")], 1.0),
        ("tasker_tasks_ended_total", vec![("state", "error")], 3.0),
        ("tasker_tasks_ended_total", vec![("state", "complete")], 2.0),
        (
            "tasker_tasks_ended_total",
            vec![("state", "resolved_manually")],
            1.0,
        ),
    ] {
        assert_eq!(
            scrape.sum(name, &labels),
            Some(expected),
            "{name} {labels:?}\n{}",
            scrape.text
        );
    }
}

#[tokio::test]
async fn stuck_steps_and_tasks_are_counted() {
    let mut bench = Bench::with(ONE).await;
    let id = bench.submit("t/one", "{}").await;
    let db = bench.db.connect().await;
    let stuck = "UPDATE queue SET due = false WHERE task_id = $1::text::uuid";
    db.execute(stuck, &[&id]).await.unwrap();
    let mended = async || {
        let scrape = Scrape::of(&bench.server.url).await;
        (scrape.sum("tasker_liveness_repaired_total", &[]) == Some(1.0)).then_some(scrape)
    };
    let scrape = crate::support::server::eventually("it is mended", mended).await;
    assert_eq!(scrape.sum("tasker_liveness_found_total", &[]), Some(1.0));
    assert_eq!(scrape.sum("tasker_liveness_violations", &[]), Some(0.0));
}

#[tokio::test]
async fn server_without_a_database_reports_it() {
    let cluster = own_cluster().await;
    let db = TestDb::on(&cluster).await;
    let server = TestServer::start(&db).await;
    register(&mut server.client().await, ONE).await;
    let before = Scrape::of(&server.url).await;
    assert_eq!(before.sum("tasker_database_up", &[]), Some(1.0));
    assert!(before.sum("tasker_queue_ready_steps", &[]).is_some());
    cluster.kill();
    let away = async || {
        let scrape = Scrape::of(&server.url).await;
        (scrape.sum("tasker_database_up", &[]) == Some(0.0)).then_some(scrape)
    };
    let after = crate::support::server::eventually("the database is away", away).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(after.types, before.types);
    assert_eq!(after.sum("tasker_queue_ready_steps", &[]), None);
}
