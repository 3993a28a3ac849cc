//! Refusals: their messages and their places.

use serde_json::Value;
use uuid::Uuid;

use crate::{
    site::Site,
    support::{
        TestDb, own_cluster,
        server::{Bench, TestServer},
    },
};

#[tokio::test]
async fn schema_violation_has_its_pointer() {
    let site = Site::new().await;
    let answer = site
        .post(
            "/tasker/tasks",
            r#"{"namespace":"t","task_name":"chain","context":{"n":"x","a/b":1},"priority":101}"#,
        )
        .await;
    let (status, code, mut places) = answer.problem();
    places.sort();
    assert_eq!((status, code), (400, "INVALID_FIELDS"));
    assert_eq!(places, ["/context/a~1b", "/context/n", "/priority"]);
    let submitted = site.get("/tasker/tasks").await;
    assert_eq!(submitted.json["tasks"], Value::Array(Vec::new()));
}

/// A path and a posted body, and the status, the code and the places of the refusal.
const POSTED: &[(&str, &str, u16, &str, &[&str])] = &[
    ("/tasker/tasks", "", 400, "INVALID_FIELDS", &[""]),
    ("/tasker/tasks", "[]", 400, "INVALID_FIELDS", &[""]),
    (
        "/tasker/tasks",
        "{}",
        400,
        "INVALID_FIELDS",
        &["/task_name"],
    ),
    (
        "/tasker/tasks",
        r#"{"task_name":"x","context":[]}"#,
        404,
        "TEMPLATE_NOT_FOUND",
        &[],
    ),
    (
        "/tasker/tasks",
        r#"{"namespace":"t","task_name":"chain","context":[]}"#,
        400,
        "INVALID_FIELDS",
        &["/context"],
    ),
    (
        "/tasker/tasks",
        r#"{"task_name":1,"context_json":"{}"}"#,
        400,
        "INVALID_FIELDS",
        &["/task_name", "/context_json"],
    ),
    (
        "/tasker/tasks?namespace=t",
        "{}",
        400,
        "INVALID_FIELDS",
        &["?namespace"],
    ),
    (
        "/tasker/tasks/x/cancel",
        "{}",
        400,
        "INVALID_FIELDS",
        &["?task_id"],
    ),
    (
        "/tasker/tasks/x/cancel",
        r#"{"task_id":"y"}"#,
        400,
        "INVALID_FIELDS",
        &["/task_id"],
    ),
    (
        "/tasker/tasks/00000000-0000-0000-0000-000000000000/cancel",
        "{}",
        400,
        "INVALID_FIELDS",
        &["/by", "/reason"],
    ),
    (
        "/tasker/tasks/00000000-0000-0000-0000-000000000000/cancel",
        r#"{"by":"me","reason":"why"}"#,
        404,
        "TASK_NOT_FOUND",
        &[],
    ),
    ("/tasker/tasks/x", "{}", 405, "METHOD_NOT_ALLOWED", &[]),
    ("/livez", "{}", 405, "METHOD_NOT_ALLOWED", &[]),
];

/// A path, and the status, the code and the places of its refusal.
const READ: &[(&str, u16, &str, &[&str])] = &[
    ("/tasker/tasks/x", 400, "INVALID_FIELDS", &["?task_id"]),
    (
        "/tasker/tasks/00000000-0000-0000-0000-000000000000",
        404,
        "TASK_NOT_FOUND",
        &[],
    ),
    (
        "/tasker/tasks?states=gone&page_size=501&x=1",
        400,
        "INVALID_FIELDS",
        &["?states", "?x"],
    ),
    (
        "/tasker/tasks?page_size=501",
        400,
        "INVALID_FIELDS",
        &["?page_size"],
    ),
    (
        "/tasker/tasks?page_token=x",
        400,
        "INVALID_FIELDS",
        &["?page_token"],
    ),
    (
        "/tasker/templates/t/nothing",
        404,
        "TEMPLATE_NOT_FOUND",
        &[],
    ),
    (
        "/tasker/templates/t/chain?version=x",
        400,
        "INVALID_FIELDS",
        &["?version"],
    ),
    (
        "/tasker/templates/t/chain?namespace=u",
        400,
        "INVALID_FIELDS",
        &["?namespace"],
    ),
    ("/tasker/nothing", 404, "NO_SUCH_PATH", &[]),
    ("/", 404, "NO_SUCH_PATH", &[]),
];

#[tokio::test]
async fn refusal_states_violation_and_place() {
    let site = Site::new().await;
    for (path, body, status, code, places) in POSTED {
        let answer = site.post(path, *body).await;
        let expected: Vec<String> = places.iter().map(|p| (*p).to_owned()).collect();
        assert_eq!(
            answer.problem(),
            (*status, *code, expected),
            "{path} {body}: {}",
            answer.text
        );
    }
    for (path, status, code, places) in READ {
        let answer = site.get(path).await;
        let expected: Vec<String> = places.iter().map(|p| (*p).to_owned()).collect();
        assert_eq!(
            answer.problem(),
            (*status, *code, expected),
            "{path}: {}",
            answer.text
        );
    }
    let allowed = site.post("/tasker/workers", "{}").await;
    assert_eq!(allowed.headers["allow"], "GET,HEAD");
}

#[tokio::test]
async fn unavailable_database_answers_with_retry_after() {
    let cluster = own_cluster().await;
    let db = TestDb::on(&cluster).await;
    let server = TestServer::start(&db).await;
    let client = server.client().await;
    let site = Site {
        bench: Bench { db, server, client },
        client: reqwest::Client::new(),
    };
    assert_eq!(site.get("/readyz").await.status, 200);
    cluster.kill();
    let answer = site.get(&format!("/tasker/tasks/{}", Uuid::nil())).await;
    assert_eq!(answer.problem(), (503, "UNAVAILABLE", vec![]));
    assert_eq!(answer.headers["retry-after"], "1");
}
