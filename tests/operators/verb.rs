//! The verbs, and the rows that tests compare before and after an order.

use tasker::{domain::order::Order, proto};
use tasker_worker::client::Client;
use tonic::{Code, Status};

use crate::support::{orders::give, server::Bench, worker::RawWorker};

/// An order about one task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Cancel,
    Pause,
    Resume,
    Retry,
    Resolve,
    RetryStep,
    ResolveStep,
    Skip,
}

pub const ALL: [Verb; 5] = [
    Verb::Cancel,
    Verb::Pause,
    Verb::Resume,
    Verb::Retry,
    Verb::Resolve,
];
pub const OF_STEPS: [Verb; 3] = [Verb::RetryStep, Verb::ResolveStep, Verb::Skip];

/// The result that is set by hand.
pub const BY_HAND: &str = r#"{"by":"hand","n":9007199254740993}"#;

/// Gives the order as ann.
pub async fn say(
    client: &mut Client,
    verb: Verb,
    id: &str,
    step: &str,
) -> Result<proto::Task, Status> {
    say_as(client, verb, id, step, "ann", "a test").await
}

pub async fn say_as(
    client: &mut Client,
    verb: Verb,
    id: &str,
    step: &str,
    by: &str,
    reason: &str,
) -> Result<proto::Task, Status> {
    let (step, fresh) = (step.to_owned(), false);
    let order = match verb {
        Verb::Cancel => Order::Cancel,
        Verb::Pause => Order::Pause,
        Verb::Resume => Order::Resume,
        Verb::Retry => Order::Retry { step: None, fresh },
        Verb::Resolve => Order::ResolveTask,
        Verb::RetryStep => Order::Retry {
            step: Some(step),
            fresh,
        },
        Verb::ResolveStep => Order::ResolveStep {
            step,
            result: BY_HAND.into(),
        },
        Verb::Skip => Order::Skip { step },
    };
    give(client, id, order, by, reason).await
}

/// Asserts that the order is refused with a message that names the state, and changes nothing.
pub async fn refused(bench: &mut Bench, verb: Verb, id: &str, step: &str, state: &str) {
    let before = rows(bench, id).await;
    let status = say(&mut bench.client, verb, id, step)
        .await
        .expect_err(&format!("{verb:?} of {state}"));
    assert_eq!(
        status.code(),
        Code::FailedPrecondition,
        "{verb:?} of {state}: {status:?}"
    );
    let words = status.message();
    assert!(
        words.split([' ', ':', ',']).any(|word| word == state),
        "{verb:?} of {state}: {words}"
    );
    assert_eq!(rows(bench, id).await, before, "{verb:?} of {state}");
}

/// Gives the order twice; the repetition must change nothing.
pub async fn followed(bench: &mut Bench, verb: Verb, id: &str, step: &str) -> proto::Task {
    let task = say(&mut bench.client, verb, id, step)
        .await
        .unwrap_or_else(|s| panic!("{verb:?}: {s:?}"));
    let before = orders(bench, id).await;
    say(&mut bench.client, verb, id, step)
        .await
        .unwrap_or_else(|s| panic!("{verb:?} again: {s:?}"));
    assert_eq!(orders(bench, id).await, before, "{verb:?} again");
    task
}

/// All rows about a task, except late answers: they are recorded and change nothing.
pub async fn rows(bench: &Bench, id: &str) -> Vec<String> {
    let sql = format!(
        "SELECT 'task ' || t::text FROM tasks t WHERE task_id = '{id}'
         UNION ALL SELECT 'step ' || s::text FROM steps s WHERE task_id = '{id}'
         UNION ALL SELECT 'queue ' || q::text FROM queue q WHERE task_id = '{id}'
         UNION ALL SELECT 'event ' || e::text FROM events e
                    WHERE task_id = '{id}' AND type <> 'step.answered_late' ORDER BY 1"
    );
    bench
        .db
        .connect()
        .await
        .query(&sql, &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect()
}

/// The orders in a task's events: type, step, actor and reason.
pub async fn orders(bench: &Bench, id: &str) -> Vec<String> {
    let sql = format!(
        "SELECT concat_ws(' ', type, step, actor, detail) FROM events
          WHERE task_id = '{id}' AND actor IS NOT NULL ORDER BY seq"
    );
    bench
        .db
        .connect()
        .await
        .query(&sql, &[])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect()
}

/// The next assignment of this task; those of other tasks are dropped.
pub async fn next_of(worker: &mut RawWorker, id: &str) -> proto::StepAssignment {
    loop {
        let assignment = worker.assignment().await;
        if assignment.task_id == id {
            return assignment;
        }
    }
}
