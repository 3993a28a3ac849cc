//! An order in the same transaction as the first start of its task.

use std::time::Duration;

use tasker::proto::{SubmitTaskRequest, TaskState};
use tokio::time::sleep;

use crate::{
    support::{
        invariants::invariants,
        server::{Bench, register, state},
        worker::{RawWorker, registration, success},
    },
    verb::{Verb, next_of, say},
};

/// Two roots; no worker serves the second one.
const PAIR: &str = "{task_name: pair, namespace: t, version: 1.0.0, step_templates: [
                     {name: a, handler_class: h}, {name: b, handler_class: nobody}]}";

/// A step of this template ends in that batch: a slot is reserved for its second step, and an older
/// or more urgent step takes it.
const CHAIN: &str = "{task_name: chain, namespace: t, version: 1.0.0, step_templates: [
                      {name: a, handler_class: h}, {name: b, handler_class: h, depends_on_steps: [a]}]}";

/// Gives the order about a task whose first step gets the slot that comes free in the same batch.
async fn given_as_it_starts(verb: Verb, step: &str) {
    let mut bench = Bench::with(PAIR).await;
    let mut worker = RawWorker::open(&bench.server.url, registration(&["h"], 1))
        .await
        .unwrap();
    register(&mut bench.client, CHAIN).await;
    let before = bench.submit("t/chain", "{}").await;
    let first = next_of(&mut worker, &before).await;
    let blocker = bench.submit("t/pair", "{}").await;
    say(&mut bench.client, Verb::Skip, &blocker, "a")
        .await
        .unwrap();
    let urgent = SubmitTaskRequest {
        namespace: "t".into(),
        task_name: "pair".into(),
        context_json: "{}".into(),
        priority: 1,
        ..Default::default()
    };
    let id = bench
        .client
        .tasks
        .submit_task(urgent)
        .await
        .unwrap()
        .into_inner()
        .task_id;
    // While the settler waits for this row, its inputs gather, and it settles them together
    // afterwards.
    let lock = bench.db.connect().await;
    lock.batch_execute(&format!(
        "BEGIN; SELECT FROM tasks WHERE task_id = '{blocker}' FOR UPDATE"
    ))
    .await
    .unwrap();
    let give = |verb, id: &str, step: &str| {
        let (mut client, id, step) = (bench.client.clone(), id.to_owned(), step.to_owned());
        tokio::spawn(async move { say(&mut client, verb, &id, &step).await.unwrap() })
    };
    let blocked = give(Verb::Pause, &blocker, "");
    sleep(Duration::from_millis(200)).await;
    worker.answer(&first.lease_token, success("1")).await;
    let given = give(verb, &id, step);
    sleep(Duration::from_millis(200)).await;
    lock.batch_execute("COMMIT").await.unwrap();
    blocked.await.unwrap();
    given.await.unwrap();
    if verb == Verb::Pause {
        say(&mut bench.client, Verb::Resume, &id, "").await.unwrap();
    }
    let a = next_of(&mut worker, &id).await;
    assert_eq!(
        state(&bench.get(&id).await),
        TaskState::InProgress,
        "{verb:?}"
    );
    worker.settle(&a, success("2")).await;
    if verb == Verb::Pause {
        say(&mut bench.client, Verb::Skip, &id, "b").await.unwrap();
    }
    assert_eq!(
        state(&bench.finished(&id).await),
        TaskState::Complete,
        "{verb:?}"
    );
    invariants(&bench.db.connect().await).await;
}

#[tokio::test]
async fn pause_concurrent_with_a_start_keeps_the_start() {
    given_as_it_starts(Verb::Pause, "").await;
}

#[tokio::test]
async fn skip_concurrent_with_a_start_starts_the_task_once() {
    given_as_it_starts(Verb::Skip, "b").await;
}
