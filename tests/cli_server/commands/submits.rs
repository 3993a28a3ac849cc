//! Submits: refused, repeated, and with every option.

use serde_json::{Value, json};

use super::{YAML, keys};
use crate::support::server::Bench;

#[tokio::test]
async fn invalid_submit_is_refused() {
    let bench = Bench::with(YAML).await;
    let said = bench
        .submit_checkout(&["--context", r#"{"order": "x"}"#])
        .await
        .failed(65);
    assert!(
        said.starts_with("error: cannot submit shop/checkout: context_json/order: "),
        "{said}"
    );
    assert_eq!(
        said.matches("context_json/order").count(),
        1,
        "a violation is told once: {said}"
    );
    let said = bench
        .submit_checkout(&["--context", r#"{"order": 1"#])
        .await
        .failed(65);
    assert!(said.contains("--context: the context is wrong"), "{said}");
    assert!(
        bench
            .submit_checkout(&["--version", "7.0.0", "--context", r#"{"order": 1}"#])
            .await
            .failed(1)
            .contains("7.0.0")
    );
    assert!(
        bench
            .submit_checkout(&["--priority", "101"])
            .await
            .failed(2)
            .contains("101")
    );
    let list = bench.tasker_json(&["task", "list"]).await;
    assert_eq!(list["tasks"], json!([]), "what was refused is not stored");
}

#[tokio::test]
async fn submit_with_a_key_can_be_repeated() {
    let bench = Bench::with(YAML).await;
    const ONCE: &[&str] = &[
        "--context",
        r#"{"order": 7}"#,
        "--idempotency-key",
        "k",
        "--json",
    ];
    let first: Value = serde_json::from_str(&bench.submit_checkout(ONCE).await.ok()).unwrap();
    assert_eq!(
        keys(&first),
        ["task_id", "created", "correlation_id", "version"]
    );
    let second: Value = serde_json::from_str(&bench.submit_checkout(ONCE).await.ok()).unwrap();
    assert_eq!(
        (&second["task_id"], &second["created"]),
        (&first["task_id"], &json!(false))
    );
    const OTHER: &[&str] = &["--context", r#"{"order": 8}"#, "--idempotency-key", "k"];
    assert!(
        bench
            .submit_checkout(OTHER)
            .await
            .failed(1)
            .contains("idempotency")
    );
    let list = bench.tasker_json(&["task", "list"]).await;
    assert_eq!(
        list["tasks"].as_array().map(Vec::len),
        Some(1),
        "what was refused is not stored"
    );
}

#[tokio::test]
async fn submit_sets_annotations_and_priority() {
    let bench = Bench::with(YAML).await;
    const NOTES: &[&str] = &[
        "--context",
        r#"{"order": 9007199254740993}"#,
        "--correlation-id",
        "c-9",
        "--annotation",
        "team=blue",
        "--priority",
        "-7",
    ];
    let noted = bench.submit_checkout(NOTES).await;
    assert!(
        noted
            .stderr
            .starts_with("submitted shop/checkout@1.0.0, correlation id c-9\n"),
        "{noted:?}"
    );
    let task = bench.tasker_json(&["task", "get", noted.ok().trim()]).await["task"].clone();
    assert_eq!(
        task["annotations"],
        json!({"team": "blue", "correlation_id": "c-9"})
    );
    assert_eq!(
        (&task["priority"], task["context"]["order"].to_string()),
        (&json!(-7), "9007199254740993".into())
    );
    let found = bench
        .tasker_json(&["task", "list", "--correlation-id", "c-9"])
        .await;
    assert_eq!(found["tasks"][0]["task_id"], task["task_id"]);
}
