//! Templates over HTTP.

use serde_json::json;

use crate::site::{CHAIN, Site};

#[tokio::test]
async fn a_template_is_registered_as_yaml_or_in_json_and_read_back() {
    let site = Site::new().await;
    let newer = CHAIN.replace("1.0.0", "1.1.0");
    let yaml = |text: String| {
        site.client
            .post(site.url("/tasker/templates"))
            .header("content-type", "application/yaml; charset=utf-8")
            .body(text)
    };
    let stored = site.send(yaml(newer.clone())).await;
    assert_eq!((stored.status.as_u16(), &stored.json["template"]["version"]), (201, &json!("1.1.0")));
    let same = site.post("/tasker/templates", json!({"yaml": newer}).to_string()).await;
    assert_eq!((same.status.as_u16(), &same.json["created"]), (200, &json!(false)));
    let newest = site.get("/tasker/templates/t/chain").await;
    assert_eq!(
        (&newest.json["template"]["version"], &newest.json["template"]["yaml"]),
        (&json!("1.1.0"), &json!(newer))
    );
    let first = site.get("/tasker/templates/t/chain?version=1.0.0").await;
    assert!(first.text.contains(r#""handler_config":{"service":"s","big":9007199254740993}"#), "{}", first.text);
    assert_eq!(first.json["template"]["schema"]["properties"]["n"], json!({"type": "integer"}));
    let page = site.get("/tasker/templates?page_size=1").await;
    let next = format!("/tasker/templates?page_size=1&page_token={}", page.json["next_page_token"].as_str().unwrap());
    let last = site.get(&next).await;
    assert_eq!(
        (&page.json["templates"][0]["version"], &last.json["templates"][0]["version"]),
        (&json!("1.1.0"), &json!("1.0.0"))
    );
    assert_eq!(last.json["next_page_token"], json!(null));
    let changed = site.send(yaml(newer.replace("name: b,", "name: c,"))).await;
    assert_eq!(changed.problem(), (409, "VERSION_TAKEN", vec![]));
}

#[tokio::test]
async fn names_in_a_path_may_be_anything_that_is_encoded() {
    let site = Site::new().await;
    let odd = CHAIN.replace("task_name: chain", "task_name: 'a/b é?'");
    site.post("/tasker/templates", json!({"yaml": odd}).to_string()).await;
    let found = site.get("/tasker/templates/t/a%2Fb%20%C3%A9%3F").await;
    assert_eq!((found.status.as_u16(), &found.json["template"]["task_name"]), (200, &json!("a/b é?")));
    assert_eq!(site.get("/tasker/templates/t/%ff").await.problem().1, "URI_UNREADABLE");
}

#[tokio::test]
async fn a_wrong_template_is_told_line_by_line() {
    let site = Site::new().await;
    let answer =
        site.post("/tasker/templates", json!({"yaml": "task_name: 1\nstep_templates: [{}]\n"}).to_string()).await;
    let (status, code, places) = answer.problem();
    assert_eq!((status, code), (400, "INVALID_FIELDS"));
    assert!(!places.is_empty() && places.iter().all(|place| place == "/yaml"), "{places:?}");
    assert!(answer.json["errors"][0]["detail"].as_str().unwrap().starts_with("line 1, column "), "{}", answer.text);
}
