//! Submit, get, list and cancel.

use serde_json::{Value, json};

use crate::{
    site::Site,
    support::worker::{RawWorker, success},
};

const DOCUMENT: &str = r#"{"z": 9007199254740993,"a/b":"é 😀","n":12345678901234567890123,"deep":[1.10,1e400,-0.0,{"y":null,"x":[]}]}"#;

#[tokio::test]
async fn documents_are_returned_unchanged() {
    let site = Site::new().await;
    let id = site.submit(DOCUMENT).await;
    let mut worker = RawWorker::connect(&site.bench.server.url, &["h"]).await;
    let a = worker.assignment().await;
    assert_eq!(a.context_json, DOCUMENT);
    worker.settle(&a, success(DOCUMENT)).await;
    let answer = site.get(&format!("/tasker/tasks/{id}")).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.headers["content-type"]),
        (200, &"application/json".parse().unwrap())
    );
    assert!(
        answer.text.contains(&format!(r#""context":{DOCUMENT},"#)),
        "{}",
        answer.text
    );
    assert!(
        answer.text.contains(&format!(r#""result":{DOCUMENT},"#)),
        "{}",
        answer.text
    );
    assert!(
        answer
            .text
            .contains(r#""handler_config":{"service":"s","big":9007199254740993}"#),
        "{}",
        answer.text
    );
    let (task, steps) = (&answer.json["task"], &answer.json["steps"]);
    assert_eq!(
        (
            &task["state"],
            &task["steps_complete"],
            &task["annotations"]["team"]
        ),
        (&json!("in_progress"), &json!(1), &json!("core"))
    );
    assert_eq!(
        (&steps[0]["state"], &steps[1]["depends_on"]),
        (&json!("complete"), &json!(["a"]))
    );
    assert_eq!(steps[0]["attempts"][0]["outcome"], "succeeded");
    assert_eq!(
        answer.json["dependencies"],
        json!([{"step": "b", "depends_on": "a"}])
    );
    assert!(
        task["submitted_at"].as_str().unwrap().ends_with('Z') && task["ended_at"].is_null(),
        "{task}"
    );
}

#[tokio::test]
async fn every_field_of_a_submit_is_stored() {
    let site = Site::new().await;
    let body = r#"{"namespace":"t","task_name":"chain","version":"1.0.0","priority":7,"correlation_id":"c-1",
                   "idempotency_key":"k","annotations":{"big":9007199254740993},"context":null}"#;
    let first = site.post("/tasker/tasks", body).await;
    assert_eq!(
        (
            first.status.as_u16(),
            &first.json["version"],
            &first.json["correlation_id"]
        ),
        (201, &json!("1.0.0"), &json!("c-1"))
    );
    let task = site
        .get(&format!(
            "/tasker/tasks/{}",
            first.json["task_id"].as_str().unwrap()
        ))
        .await;
    assert!(
        task.text.contains(
            r#""annotations":{"team":"core","big":9007199254740993,"correlation_id":"c-1"}"#
        ),
        "{}",
        task.text
    );
    assert_eq!(
        (
            &task.json["task"]["priority"],
            &task.json["task"]["context"]
        ),
        (&json!(7), &json!({}))
    );
    // The same submit makes no new task, and other content is refused.
    let again = site.post("/tasker/tasks", body).await;
    assert_eq!(
        (
            again.status.as_u16(),
            &again.json["created"],
            &again.json["task_id"]
        ),
        (200, &json!(false), &first.json["task_id"])
    );
    let other = site.post("/tasker/tasks", body.replace(":7", ":8")).await;
    assert_eq!(other.problem(), (409, "IDEMPOTENCY_KEY_REUSED", vec![]));
}

#[tokio::test]
async fn idempotency_key_is_accepted_as_a_header() {
    let site = Site::new().await;
    let submit = |key: &'static str, body: &'static str| {
        let request = site
            .post_json("/tasker/tasks", body)
            .header("idempotency-key", key);
        site.send(request)
    };
    let plain = r#"{"namespace":"t","task_name":"chain"}"#;
    let first = submit("k-1", plain).await;
    assert_eq!(first.status, 201);
    for (key, body) in [
        ("k-1", plain),
        ("\"k-1\"", plain),
        (
            "k-1",
            r#"{"namespace":"t","task_name":"chain","idempotency_key":"k-1"}"#,
        ),
    ] {
        let again = submit(key, body).await;
        assert_eq!(
            (again.status.as_u16(), &again.json["task_id"]),
            (200, &first.json["task_id"]),
            "{key} {body}"
        );
    }
    let other = submit(
        "k-1",
        r#"{"namespace":"t","task_name":"chain","idempotency_key":"k-2"}"#,
    )
    .await;
    assert_eq!(
        other.problem(),
        (400, "INVALID_FIELDS", vec!["?Idempotency-Key".into()])
    );
}

#[tokio::test]
async fn lists_are_filtered_and_paged_as_over_grpc() {
    let site = Site::new().await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(site.submit(&format!(r#"{{"n":{n}}}"#)).await);
    }
    let cancelled = site
        .post(
            &format!("/tasker/tasks/{}/cancel", ids[2]),
            r#"{"by":"me","reason":"why"}"#,
        )
        .await;
    assert_eq!(
        (
            cancelled.status.as_u16(),
            &cancelled.json["task"]["cancelled_by"]
        ),
        (200, &json!("me"))
    );
    let ids_of = |json: &Value| -> Vec<String> {
        json["tasks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t["task_id"].as_str().unwrap().to_owned())
            .collect()
    };
    let mut query =
        "/tasker/tasks?namespace=t&page_size=2&states=pending&states=in_progress".to_owned();
    let mut seen = Vec::new();
    loop {
        let page = site.get(&query).await;
        assert_eq!(page.status, 200, "{page:?}");
        seen.extend(ids_of(&page.json));
        let Some(next) = page.json["next_page_token"].as_str() else {
            break;
        };
        query = format!(
            "/tasker/tasks?namespace=t&page_size=2&states=pending&states=in_progress&page_token={next}"
        );
    }
    ids.remove(2);
    ids.reverse();
    assert_eq!(seen, ids);
    let none = site
        .get("/tasker/tasks?submitted_before=2020-01-01T00:00:00Z")
        .await;
    assert_eq!(ids_of(&none.json), Vec::<String>::new());
    let one = site
        .get("/tasker/tasks?states=cancelled&task_name=chain&version=1.0.0")
        .await;
    assert_eq!(one.json["tasks"][0]["cancel_reason"], "why");
}

#[tokio::test]
async fn cancel_records_its_author_and_is_refused_by_an_ended_task() {
    let site = Site::new().await;
    let mut worker = RawWorker::connect(&site.bench.server.url, &["h"]).await;
    let id = site.submit("{}").await;
    for _ in 0..2 {
        let step = worker.assignment().await;
        worker.settle(&step, success("null")).await;
    }
    let path = format!("/tasker/tasks/{id}/cancel");
    let places = vec!["/by".to_owned(), "/reason".to_owned()];
    assert_eq!(
        site.send(site.client.post(site.url(&path))).await.problem(),
        (400, "INVALID_FIELDS", places.clone())
    );
    assert_eq!(
        site.post(&path, r#"{"by":" ","reason":""}"#)
            .await
            .problem(),
        (400, "INVALID_FIELDS", places)
    );
    let ended = site.post(&path, r#"{"by":"me","reason":"why"}"#).await;
    assert_eq!(ended.problem(), (409, "TASK_ENDED", vec![]));
    let workers = site.get("/tasker/workers?handler=h").await;
    assert_eq!(
        (
            &workers.json["workers"][0]["name"],
            &workers.json["workers"][0]["namespaces"]
        ),
        (&json!("raw"), &json!([]))
    );
    let none = site.get("/tasker/workers?handler=none").await.json;
    assert_eq!(none, json!({"workers": [], "next_page_token": null}));
}
