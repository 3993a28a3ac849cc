//! Pauses of templates and namespaces: no step starts until they are lifted, whatever is restarted.

use std::time::Duration;

use prost::Message;
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
async fn template_pause_lets_running_steps_end_and_holds_the_next() {
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
    // Other templates with the same handler, in the same namespace, go on.
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
    // A newer version has the same name.
    register(&mut bench.client, &chain.replace("1.0.0", "2.0.0")).await;
    bench.submit("t/chain", "{}").await;
    worker.hears_nothing(Duration::from_millis(700)).await;
    let listed = bench
        .client
        .tasks
        .list_pauses(proto::ListPausesRequest::default())
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
async fn pause_is_confirmed_after_all_earlier_claims() {
    let mut bench = Bench::with(ONE).await;
    let request = proto::PauseTemplateRequest {
        namespace: "t".into(),
        task_name: "one".into(),
        by: "ann".into(),
        reason: "a test".into(),
    };
    // This session stands for a server that is stopped in the middle of a claim. Postgres hides the
    // times of another role's sessions from ours, and the application name does not identify it.
    let other = "CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.queue (x int);
                 DROP ROLE IF EXISTS claimer; CREATE ROLE claimer; GRANT USAGE ON SCHEMA tasker, elsewhere TO claimer;
                 GRANT ALL ON queue, elsewhere.queue TO claimer";
    bench.db.connect().await.batch_execute(other).await.unwrap();
    let claim = bench.db.connect().await;
    let begin = "SET ROLE claimer; SET application_name TO 'something else'; BEGIN; UPDATE queue SET lane_id = 1 WHERE false";
    claim.batch_execute(begin).await.unwrap();
    // A session in another cell of the same database must not matter.
    let elsewhere = bench.db.connect().await;
    elsewhere
        .batch_execute(
            "SET application_name TO tasker; BEGIN; INSERT INTO elsewhere.queue VALUES (1)",
        )
        .await
        .unwrap();
    // While the claim is open, the repetition is UNAVAILABLE too.
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
        .list_pauses(proto::ListPausesRequest::default())
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
async fn nested_pauses_are_lifted_one_by_one() {
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

/// The most pauses of a page, and the bytes at which one ends early.
const PAGE: i64 = 1_000;
const PAGE_BYTES: usize = 3 << 20;

/// All pages: the number of pauses in each, and the names in their order.
async fn pages(bench: &mut Bench, page_size: i32) -> (Vec<usize>, Vec<String>) {
    let (mut sizes, mut names, mut page_token) = (Vec::new(), Vec::new(), String::new());
    loop {
        let request = proto::ListPausesRequest {
            page_size,
            page_token,
        };
        let answer = bench.client.tasks.list_pauses(request).await.unwrap();
        let page = answer.into_inner();
        let bytes: usize = page.pauses.iter().map(Message::encoded_len).sum();
        assert!(bytes <= PAGE_BYTES, "{bytes}");
        sizes.push(page.pauses.len());
        names.extend(page.pauses.into_iter().map(|pause| pause.task_name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return (sizes, names);
        }
    }
}

#[tokio::test]
async fn pauses_are_listed_in_pages_bounded_by_number_and_bytes() {
    let mut bench = Bench::new().await;
    let db = bench.db.connect().await;
    let insert = "INSERT INTO pauses (namespace, task_name, paused_at, paused_by, reason)
                  SELECT 't', 'p' || lpad(n::text, 5, '0'), now(), 'ann', repeat('y', $3) FROM generate_series($1::int8, $2) n";
    db.execute(insert, &[&1_i64, &PAGE, &10_i32]).await.unwrap();
    assert_eq!(pages(&mut bench, 0).await.0, [1_000]);
    db.execute(insert, &[&(PAGE + 1), &(PAGE + 1), &10_i32])
        .await
        .unwrap();
    let (sizes, names) = pages(&mut bench, 0).await;
    assert_eq!(sizes, [1_000, 1]);
    assert!(names.is_sorted() && names.len() == 1_001, "{names:?}");
    assert_eq!(pages(&mut bench, 400).await, (vec![400, 400, 201], names));

    // Over HTTP, with the token as returned.
    let mut over_http = Vec::new();
    let mut query = "page_size=600".to_owned();
    loop {
        let url = format!("{}/tasker/pauses?{query}", bench.server.url);
        let text = reqwest::get(url).await.unwrap().text().await.unwrap();
        let page: serde_json::Value = serde_json::from_str(&text).unwrap();
        over_http.push(page["pauses"].as_array().unwrap().len());
        let Some(next) = page["next_page_token"].as_str() else {
            break;
        };
        query = format!("page_size=600&page_token={next}");
    }
    assert_eq!(over_http, [600, 401]);

    for (page_size, page_token, field) in [
        (1_001, "", "page_size"),
        (-1, "", "page_size"),
        (1, "x", "page_token"),
    ] {
        let request = proto::ListPausesRequest {
            page_size,
            page_token: page_token.into(),
        };
        let refused = bench.client.tasks.list_pauses(request).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{field}");
        assert!(refused.message().contains(field), "{refused}");
    }

    // Larger than today's bounds allow, so that a page is full before it has a thousand.
    db.execute("DELETE FROM pauses", &[]).await.unwrap();
    db.execute(insert, &[&1_i64, &PAGE, &8_192_i32])
        .await
        .unwrap();
    let (sizes, names) = pages(&mut bench, 0).await;
    assert!(sizes.len() == 3 && sizes[0] > 300, "{sizes:?}");
    assert!(names.is_sorted() && names.len() == 1_000);
}
