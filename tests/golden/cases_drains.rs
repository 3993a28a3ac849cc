//! Workers that drain or release: the attempts that they leave are not charged.

use std::time::{Duration, Instant};

use tasker::proto::{AttemptOutcome, ResultStatus, TaskState};

use super::cases_leases::ONE;
use crate::support::{
    server::{self, Bench, eventually, state, step},
    worker::{RawWorker, released, success},
};

#[tokio::test]
async fn drained_worker_returns_unstarted_steps() {
    let mut bench = Bench::with(ONE).await;
    let mut first = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/one", "{}").await;
    let unstarted = first.assignment().await;
    let mut second = RawWorker::connect(&bench.server.url, &["h"]).await;
    first.drain().await;
    assert_eq!(
        first.settle(&unstarted, released()).await,
        ResultStatus::Accepted
    );
    let assignment = second.assignment().await;
    assert_eq!((assignment.attempt, assignment.charged_attempts), (2, 0));
    second.settle(&assignment, success("1")).await;
    assert_eq!(state(&bench.finished(&id).await), TaskState::Complete);
    first.close();
    assert!(matches!(first.hear().await, Ok(None)));
}

#[tokio::test]
async fn worker_that_releases_in_a_loop_does_not_spin() {
    let mut bench = Bench::with(ONE).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    bench.submit("t/one", "{}").await;
    let first = worker.assignment().await;
    worker.settle(&first, released()).await;
    let started = Instant::now();
    let again = worker.assignment().await;
    assert!(
        started.elapsed() > Duration::from_millis(800),
        "released steps come back at once"
    );
    assert_eq!((again.attempt, again.charged_attempts), (2, 0));
}

/// The worker dies, and its lease is made to run out at once.
async fn gone(db: &tokio_postgres::Client, worker: RawWorker) {
    let id = uuid::Uuid::parse_str(&worker.registered.worker_id).unwrap();
    drop(worker);
    // Until the server has noticed the broken stream, a heartbeat on its way may still extend the
    // lease.
    eventually("the lease runs out", || async {
        let sql = "UPDATE workers SET lease_expires_at = now() - interval '1 minute' WHERE worker_id = $1 AND ended_at IS NULL";
        (db.execute(sql, &[&id]).await.unwrap() == 0).then_some(())
    })
    .await;
}

/// Ends the wait of every step that waits for its next attempt.
async fn hurry(db: &tokio_postgres::Client) {
    let sql = "UPDATE queue SET next_attempt_at = now(), ready_at = now(), due = true WHERE state = 'waiting_for_retry'";
    db.execute(sql, &[]).await.unwrap();
}

#[tokio::test]
async fn deploys_never_exhaust_a_step() {
    const DEPLOYS: i32 = 25;
    let mut bench = Bench::with(ONE).await;
    let id = bench.submit("t/one", "{}").await;
    let db = bench.db.connect().await;
    for attempt in 1..=DEPLOYS {
        let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
        let assignment = worker.assignment().await;
        assert_eq!(
            (assignment.attempt, assignment.charged_attempts),
            (attempt, 0)
        );
        worker.drain().await;
        if attempt == 2 {
            // Killed in the middle of its drain, as by an orchestrator after its grace period.
            eventually("the drain is known", || async {
                let sql = "SELECT count(*) FROM workers WHERE draining AND ended_at IS NULL";
                (db.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
            })
            .await;
            gone(&db, worker).await;
        } else {
            worker.close();
            assert!(matches!(worker.hear().await, Ok(None)));
        }
        eventually("the step is given back", || async {
            let sql = "SELECT count(*) FROM queue WHERE lease IS NULL";
            (db.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 1).then_some(())
        })
        .await;
        hurry(&db).await;
    }
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let last = worker.assignment().await;
    worker.settle(&last, success("1")).await;
    let task = bench.finished(&id).await;
    assert_eq!(state(&task), TaskState::Complete);
    let attempts = &step(&task, "only").attempts;
    assert_eq!(attempts.len(), usize::try_from(DEPLOYS).unwrap() + 1);
    for attempt in &attempts[..attempts.len() - 1] {
        assert_eq!(
            (attempt.outcome(), attempt.charged, &attempt.error),
            (AttemptOutcome::Drained, false, &None)
        );
    }
    let marks = "SELECT (SELECT count(*) FROM circuit_changes), (SELECT coalesce(sum(failures), 0)::bigint FROM service_health)";
    let marks = db.query_one(marks, &[]).await.unwrap();
    assert_eq!(
        (marks.get::<_, i64>(0), marks.get::<_, i64>(1)),
        (0, 0),
        "a deploy is no fault of the service"
    );
}

#[tokio::test]
async fn workers_that_drain_in_sequence_do_not_spin_a_step() {
    let mut bench = Bench::with(ONE).await;
    let id = bench.submit("t/one", "{}").await;
    let mut started = Instant::now();
    for attempt in 1..=3 {
        let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
        assert_eq!(worker.assignment().await.attempt, attempt);
        if attempt == 3 {
            assert!(
                started.elapsed() > Duration::from_millis(800),
                "the step came back at once"
            );
            let waits = "a worker that had drained is named";
            assert!(
                server::explained(&mut bench.client, &id).await.steps[0].free_attempts == 2,
                "{waits}"
            );
            return;
        }
        started = Instant::now();
        worker.drain().await;
        worker.close();
        assert!(matches!(worker.hear().await, Ok(None)));
    }
}

#[tokio::test]
async fn step_that_loses_ten_workers_fails() {
    let mut bench = Bench::with(ONE).await;
    let id = bench.submit("t/one", "{}").await;
    let db = bench.db.connect().await;
    for attempt in 1..=10 {
        let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
        assert_eq!(worker.assignment().await.attempt, attempt);
        gone(&db, worker).await;
    }
    let task = bench.finished(&id).await;
    assert_eq!(state(&task), TaskState::Error);
    assert_eq!(
        step(&task, "only").error.as_ref().unwrap().error_code,
        "WORKER_LOST"
    );
    assert_eq!(step(&task, "only").charged_attempts, 0);
}
