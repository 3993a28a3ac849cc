//! The event stream as server-sent events.

use serde_json::json;

use crate::{
    site::Site,
    support::worker::{RawWorker, success},
};

#[tokio::test]
async fn reconnected_event_source_receives_each_event_once() {
    let site = Site::new().await;
    let id = site.submit("{}").await;
    let mut worker = RawWorker::connect(&site.bench.server.url, &["h"]).await;
    for _ in 0..2 {
        let step = worker.assignment().await;
        worker.settle(&step, success("1")).await;
    }
    let query = format!("?task_id={id}&start_from=beginning");
    let (headers, all) = site.events(&query, None, 7).await;
    assert_eq!(headers["content-type"], "text/event-stream");
    let types: Vec<&str> = all
        .iter()
        .map(|(_, event)| event["type"].as_str().unwrap())
        .collect();
    let (first, last) = (types[0], types[6]);
    assert_eq!(
        (first, last),
        ("task.submitted", "task.completed"),
        "{types:?}"
    );
    assert_eq!(
        (&all[0].1["task_name"], &all[0].1["task_id"]),
        (&json!("chain"), &json!(id))
    );
    // The browser reconnects with its first URL, which asks for the beginning; its last event id
    // takes precedence.
    for seen in 0..6 {
        let (_, rest) = site.events(&query, Some(&all[seen].0), 6 - seen).await;
        let rest: Vec<_> = rest.iter().map(|(_, event)| event["seq"].clone()).collect();
        let expected: Vec<_> = all[seen + 1..]
            .iter()
            .map(|(_, event)| event["seq"].clone())
            .collect();
        assert_eq!(rest, expected, "after {seen}");
    }
    let (_, failed) = site
        .events(
            &format!("?task_id={id}&types=step.completed&start_from=beginning"),
            None,
            2,
        )
        .await;
    assert!(
        failed
            .iter()
            .all(|(_, event)| event["type"] == "step.completed"),
        "{failed:?}"
    );
}

#[tokio::test]
async fn invalid_last_event_id_is_refused_as_a_problem() {
    let site = Site::new().await;
    assert_eq!(
        site.get("/tasker/events?cursor=nonsense").await.problem(),
        (400, "INVALID_FIELDS", vec!["?cursor".into()])
    );
    assert_eq!(site.get("/tasker/events?types=gone").await.problem().0, 400);
    let back = site
        .client
        .get(site.url("/tasker/events"))
        .header("last-event-id", "nonsense");
    assert_eq!(site.send(back).await.problem().0, 400);
}
