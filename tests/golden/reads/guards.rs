//! Changes that the database itself refuses or reports.

use super::ONE;
use crate::support::server::Bench;

#[tokio::test]
async fn invalid_row_is_refused_by_the_database() {
    let mut bench = Bench::with(ONE).await;
    bench.submit("t/one", "{}").await;
    let db = bench.db.connect().await;
    for forbidden in [
        "UPDATE templates SET yaml = ''",
        "DELETE FROM template_steps",
        "UPDATE events SET at = now()",
    ] {
        assert!(
            db.batch_execute(forbidden).await.is_err(),
            "{forbidden} went through"
        );
    }
}

/// A contradiction, and the row of `row_violations` that reports it.
const CONTRADICTIONS: &[(&str, &str)] = &[
    (
        "UPDATE tasks SET priority = 101",
        "task: priority is out of range",
    ),
    ("UPDATE tasks SET steps_total = 0", "task: it has no steps"),
    (
        "UPDATE tasks SET state = 'in_progress'",
        "task: it has started, or not, against its state",
    ),
    (
        "UPDATE tasks SET started_at = now()",
        "task: it has started, or not, against its state",
    ),
    (
        "UPDATE tasks SET ended_at = now(), steps_live = 0",
        "task: it has ended, or not, against its state",
    ),
    (
        "UPDATE tasks SET steps_live = 0",
        "task: it has ended with steps in play, or has none and has not",
    ),
    (
        "UPDATE tasks SET state = 'error', started_at = now(), ended_at = now(), steps_live = 0",
        "task: it failed without a reason",
    ),
    (
        "UPDATE tasks SET cancelled_by = 'x'",
        "task: it has an actor of its cancellation, or none, against its state",
    ),
    (
        "INSERT INTO steps SELECT task_id, 0, 'ready', 1, 0, NULL, NULL, NULL, NULL, now(), now(), now() FROM tasks",
        "step: its state is not final",
    ),
    (
        "INSERT INTO steps SELECT task_id, 0, 'complete', 1, 0, NULL, NULL, NULL, NULL, now(), now(), now() FROM tasks",
        "step: it has a result, or none, against its state",
    ),
    (
        "INSERT INTO steps SELECT task_id, 0, 'error', 1, 1, NULL, NULL, NULL, NULL, now(), now(), now() FROM tasks",
        "step: it has an error, or none, against its state",
    ),
    (
        "INSERT INTO steps SELECT task_id, 0, 'complete', 1, 0, '1', NULL, NULL, NULL, now(), NULL, now() FROM tasks",
        "step: it ended without a start and without an actor",
    ),
    (
        "UPDATE queue SET state = 'pending', due = false",
        "queue: its state is not one of play",
    ),
    (
        "UPDATE queue SET lease = 1",
        "queue: it has a lease, or part of one, against its state",
    ),
    (
        "UPDATE queue SET next_attempt_at = now()",
        "queue: it has a time of the next attempt, or none, against its state",
    ),
    (
        "UPDATE queue SET due = false",
        "queue: nothing wakes it, or it is claimable against its state",
    ),
];

#[tokio::test]
async fn contradictory_row_is_listed_in_row_violations() {
    let mut bench = Bench::with(ONE).await;
    bench.submit("t/one", "{}").await;
    let db = bench.db.connect().await;
    let violations = async || {
        let rows = db
            .query(
                "SELECT kind || ': ' || violation FROM row_violations ORDER BY 1",
                &[],
            )
            .await
            .unwrap();
        rows.iter().map(|row| row.get(0)).collect::<Vec<String>>()
    };
    assert_eq!(violations().await, [""; 0]);
    for &(mistake, seen) in CONTRADICTIONS {
        db.batch_execute(&format!("BEGIN; {mistake}"))
            .await
            .unwrap();
        assert_eq!(violations().await, [seen], "{mistake}");
        db.batch_execute("ROLLBACK").await.unwrap();
    }
}

#[tokio::test]
async fn stuck_step_or_task_is_listed_in_liveness_violations() {
    let mut bench = Bench::with(ONE).await;
    bench.submit("t/one", "{}").await;
    let db = bench.db.connect().await;
    let violations = async || {
        let rows = db
            .query("SELECT violation FROM liveness_violations ORDER BY 1", &[])
            .await
            .unwrap();
        rows.iter().map(|row| row.get(0)).collect::<Vec<String>>()
    };
    assert_eq!(violations().await, [""; 0]);
    for (mistake, seen) in [
        (
            "DELETE FROM queue",
            "it is not final, and no step of it is in play",
        ),
        (
            "DELETE FROM tasks",
            "it is in play, and its task is over or not there",
        ),
        (
            "UPDATE tasks SET ended_at = now()",
            "it is in play, and its task is over or not there",
        ),
        (
            "UPDATE queue SET due = false",
            "it is in play, and nothing wakes it",
        ),
        (
            "UPDATE queue SET state = 'in_progress', due = false",
            "it is in play, and nothing wakes it",
        ),
        (
            "UPDATE queue SET state = 'waiting_for_retry', due = false",
            "it is in play, and nothing wakes it",
        ),
        (
            "UPDATE queue SET state = 'complete', due = false",
            "it is in play, and nothing wakes it",
        ),
    ] {
        db.batch_execute(&format!("BEGIN; {mistake}"))
            .await
            .unwrap();
        assert_eq!(violations().await, [seen], "{mistake}");
        db.batch_execute("ROLLBACK").await.unwrap();
    }
}
