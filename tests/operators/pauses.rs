//! Pauses of templates and namespaces: nothing starts, whatever is restarted, until they are lifted.

use std::time::Duration;

use tasker::proto::{self, WaitCause};

use crate::{
    support::{
        invariants::invariants,
        server::{Bench, explained, lift, pause, register, state},
        worker::{RawWorker, success},
    },
    verb::next_of,
};

const ONE: &str =
    "{task_name: one, namespace: t, version: 1.0.0, step_templates: [{name: a, handler_class: h}]}";

#[tokio::test]
async fn what_runs_ends_and_what_comes_next_waits_for_the_template() {
    let chain = "{task_name: chain, namespace: t, version: 1.0.0, step_templates: [
                  {name: a, handler_class: h}, {name: b, handler_class: h, depends_on_steps: [a]}]}";
    let mut bench = Bench::with(chain).await;
    register(&mut bench.client, ONE).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/chain", "{}").await;
    let a = worker.assignment().await;
    let first = pause(&mut bench.client, "t", "chain").await;
    assert_eq!(
        pause(&mut bench.client, "t", "chain").await,
        first,
        "the first pause stays"
    );
    worker.settle(&a, success("1")).await;
    let new = bench.submit("t/chain", "{}").await;
    worker.hears_nothing(Duration::from_millis(700)).await;
    // Others with the same handler, in the same namespace, go on.
    let other = bench.submit("t/one", "{}").await;
    let assignment = next_of(&mut worker, &other).await;
    worker.settle(&assignment, success("1")).await;
    bench.finished(&other).await;
    for id in [&id, &new] {
        let why = explained(&mut bench.client, id).await;
        let wait = why
            .steps
            .iter()
            .flat_map(|step| &step.waits)
            .find(|wait| wait.cause() == WaitCause::Paused)
            .unwrap();
        assert!(
            wait.message
                .starts_with("template t/chain is paused since "),
            "{}",
            wait.message
        );
        assert_eq!(wait.since, first.paused_at);
    }
    // A newer version is of the same name.
    register(&mut bench.client, &chain.replace("1.0.0", "2.0.0")).await;
    bench.submit("t/chain", "{}").await;
    worker.hears_nothing(Duration::from_millis(700)).await;
    let listed = bench
        .client
        .tasks
        .list_pauses(proto::ListPausesRequest {})
        .await
        .unwrap()
        .into_inner()
        .pauses;
    assert_eq!(listed, [first]);
    invariants(&bench.db.connect().await).await;
    assert!(lift(&mut bench.client, "t", "chain").await);
    let mut started = [
        worker.assignment().await,
        worker.assignment().await,
        worker.assignment().await,
    ]
    .map(|a| a.step_name);
    started.sort();
    assert_eq!(started, ["a", "a", "b"]);
    invariants(&bench.db.connect().await).await;
}

#[tokio::test]
async fn a_pause_is_confirmed_when_no_claim_from_before_it_can_be_made_any_more() {
    let mut bench = Bench::with(ONE).await;
    let request = proto::PauseTemplateRequest {
        namespace: "t".into(),
        task_name: "one".into(),
        by: "ann".into(),
        reason: "a test".into(),
    };
    // Stands for a server that stands still in the middle of a claim. Its role is another one, of whose sessions Postgres shows
    // no times to ours, and no name says what it is.
    let other = "CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.queue (x int);
                 DROP ROLE IF EXISTS claimer; CREATE ROLE claimer; GRANT USAGE ON SCHEMA tasker, elsewhere TO claimer;
                 GRANT ALL ON queue, elsewhere.queue TO claimer";
    bench.db.connect().await.batch_execute(other).await.unwrap();
    let claim = bench.db.connect().await;
    let begin = "SET ROLE claimer; SET application_name TO 'something else'; BEGIN; UPDATE queue SET lane_id = 1 WHERE false";
    claim.batch_execute(begin).await.unwrap();
    // Another cell of the same database is none of our business.
    let elsewhere = bench.db.connect().await;
    elsewhere
        .batch_execute(
            "SET application_name TO tasker; BEGIN; INSERT INTO elsewhere.queue VALUES (1)",
        )
        .await
        .unwrap();
    for _ in 0..2 {
        let status = bench
            .client
            .tasks
            .pause_template(request.clone())
            .await
            .unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
    }
    let listed = bench
        .client
        .tasks
        .list_pauses(proto::ListPausesRequest {})
        .await
        .unwrap()
        .into_inner()
        .pauses;
    assert_eq!(listed.len(), 1, "it holds for what comes");
    claim.batch_execute("COMMIT").await.unwrap();
    assert_eq!(pause(&mut bench.client, "t", "one").await, listed[0]);
    elsewhere.batch_execute("COMMIT").await.unwrap();
    let gone = "DROP OWNED BY claimer; DROP ROLE claimer";
    bench.db.connect().await.batch_execute(gone).await.unwrap();
}

#[tokio::test]
async fn two_pauses_are_lifted_one_by_one() {
    let mut bench = Bench::with(ONE).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    for name in ["", "one"] {
        pause(&mut bench.client, "t", name).await;
    }
    let id = bench.submit("t/one", "{}").await;
    assert!(lift(&mut bench.client, "t", "").await);
    worker.hears_nothing(Duration::from_millis(500)).await;
    let paused = bench.client.tasks.pause_task(proto::PauseTaskRequest {
        task_id: id.clone(),
        by: "ann".into(),
        reason: "x".into(),
    });
    paused.await.unwrap();
    assert!(lift(&mut bench.client, "t", "one").await);
    worker.hears_nothing(Duration::from_millis(500)).await;
    let resume = proto::ResumeTaskRequest {
        task_id: id.clone(),
        by: "ann".into(),
        reason: "x".into(),
    };
    bench.client.tasks.resume_task(resume).await.unwrap();
    assert_eq!(worker.assignment().await.task_id, id);
    assert_eq!(state(&bench.get(&id).await), proto::TaskState::InProgress);
    invariants(&bench.db.connect().await).await;
}
