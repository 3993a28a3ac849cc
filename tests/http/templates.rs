//! Templates over HTTP.

use serde_json::json;

use crate::site::{CHAIN, Site};

#[tokio::test]
async fn template_is_registered_as_yaml_or_json_and_returned() {
    let site = Site::new().await;
    let newer = CHAIN.replace("1.0.0", "1.1.0");
    let yaml = |text: String| {
        site.client
            .post(site.url("/tasker/templates"))
            .header("content-type", "application/yaml; charset=utf-8")
            .body(text)
    };
    let stored = site.send(yaml(newer.clone())).await;
    assert_eq!(
        (stored.status.as_u16(), &stored.json["template"]["version"]),
        (201, &json!("1.1.0"))
    );
    let same = site
        .post("/tasker/templates", json!({"yaml": newer}).to_string())
        .await;
    assert_eq!(
        (same.status.as_u16(), &same.json["created"]),
        (200, &json!(false))
    );
    let newest = site.get("/tasker/templates/t/chain").await;
    assert_eq!(
        (
            &newest.json["template"]["version"],
            &newest.json["template"]["yaml"]
        ),
        (&json!("1.1.0"), &json!(newer))
    );
    let first = site.get("/tasker/templates/t/chain?version=1.0.0").await;
    assert!(
        first
            .text
            .contains(r#""handler_config":{"service":"s","big":9007199254740993}"#),
        "{}",
        first.text
    );
    assert_eq!(
        first.json["template"]["schema"]["properties"]["n"],
        json!({"type": "integer"})
    );
    let page = site.get("/tasker/templates?page_size=1").await;
    let next = format!(
        "/tasker/templates?page_size=1&page_token={}",
        page.json["next_page_token"].as_str().unwrap()
    );
    let last = site.get(&next).await;
    assert_eq!(
        (
            &page.json["templates"][0]["version"],
            &last.json["templates"][0]["version"]
        ),
        (&json!("1.1.0"), &json!("1.0.0"))
    );
    assert_eq!(last.json["next_page_token"], json!(null));
    let changed = site.send(yaml(newer.replace("name: b,", "name: c,"))).await;
    assert_eq!(changed.problem(), (409, "VERSION_TAKEN", vec![]));
}

#[tokio::test]
async fn version_is_retired() {
    let site = Site::new().await;
    let retire = |body: serde_json::Value| {
        site.post("/tasker/templates/t/chain/1.0.0/retire", body.to_string())
    };
    let refused = retire(json!({})).await;
    assert_eq!(
        refused.problem(),
        (
            400,
            "INVALID_FIELDS",
            vec!["/by".to_owned(), "/reason".to_owned()]
        )
    );
    let retired = retire(json!({"by": "ann", "reason": "a bad release"})).await;
    assert_eq!(
        (
            retired.status.as_u16(),
            &retired.json["template"]["retired_by"],
            &retired.json["template"]["retired_reason"],
        ),
        (200, &json!("ann"), &json!("a bad release")),
        "{}",
        retired.text
    );
    let task = json!({"namespace": "t", "task_name": "chain"}).to_string();
    let refused = site.post("/tasker/tasks", task).await;
    assert_eq!(refused.problem(), (409, "TEMPLATE_RETIRED", vec![]));
    let listed = async |query: &str| {
        let answer = site.get(&format!("/tasker/templates{query}")).await;
        answer.json["templates"].as_array().map(Vec::len)
    };
    assert_eq!(
        (listed("").await, listed("?include_retired=true").await),
        (Some(0), Some(1))
    );
}

#[tokio::test]
async fn encoded_names_in_a_path_are_accepted() {
    let site = Site::new().await;
    let odd = CHAIN.replace("task_name: chain", "task_name: 'a%:é?'");
    site.post("/tasker/templates", json!({"yaml": odd}).to_string())
        .await;
    let found = site.get("/tasker/templates/t/a%25%3A%C3%A9%3F").await;
    assert_eq!(
        (found.status.as_u16(), &found.json["template"]["task_name"]),
        (200, &json!("a%:é?"))
    );
    assert_eq!(
        site.get("/tasker/templates/t/%ff").await.problem().1,
        "URI_UNREADABLE"
    );
}

#[tokio::test]
async fn stored_name_outside_the_grammar_stays_readable_and_is_refused_anew() {
    let site = Site::new().await;
    let old = CHAIN
        .replace("task_name: chain", "task_name: 'a/b c@d'")
        .replace("handler_class: h", "handler_class: 'h h'");
    let refused = site
        .post("/tasker/templates", json!({"yaml": old}).to_string())
        .await;
    assert_eq!(
        refused.problem(),
        (400, "INVALID_FIELDS", vec!["/yaml".to_owned(); 3])
    );
    assert!(
        refused.text.contains("the name must not contain `/`"),
        "{}",
        refused.text
    );

    let sql = site.bench.db.connect().await;
    let insert = "WITH t AS (INSERT INTO templates (namespace, task_name, version, yaml, environment)
                       SELECT namespace, 'a/b c@d', version, $1, '' FROM templates LIMIT 1 RETURNING template_id, namespace, task_name),
                     l AS (INSERT INTO lanes (namespace, task_name, handler, service, service_id)
                       SELECT t.namespace, t.task_name, 'h h', s.service, s.service_id FROM t CROSS JOIN services s LIMIT 1 RETURNING lane_id)
                  INSERT INTO template_steps (template_id, step, name, lane_id)
                  SELECT t.template_id, u.step, u.name, l.lane_id FROM t, l, (VALUES (0::int2, 'a'), (1::int2, 'b')) u(step, name)";
    sql.execute(insert, &[&old]).await.unwrap();
    let found = site.get("/tasker/templates/t/a%2Fb%20c%40d").await;
    assert_eq!(
        (found.status.as_u16(), &found.json["template"]["task_name"]),
        (200, &json!("a/b c@d"))
    );
    let task = json!({"namespace": "t", "task_name": "a/b c@d"}).to_string();
    assert_eq!(site.post("/tasker/tasks", task).await.status, 201);
}

#[tokio::test]
async fn warnings_are_returned_and_refuse_only_if_denied() {
    let site = Site::new().await;
    let yaml = include_str!("../fixtures/rails/returns.yaml");
    let request = |deny: bool| json!({"yaml": yaml, "deny_warnings": deny}).to_string();
    let denied = site.post("/tasker/templates", request(true)).await;
    assert_eq!(
        denied.problem(),
        (400, "INVALID_FIELDS", vec!["/yaml".to_owned(); 4])
    );
    assert!(
        denied
            .text
            .contains("line 5, column 1: task_handler_class: warning"),
        "{}",
        denied.text
    );
    assert_eq!(
        site.get("/tasker/templates/returns/process_return")
            .await
            .status,
        404
    );

    let stored = site.post("/tasker/templates", request(false)).await;
    assert_eq!(
        (
            stored.status.as_u16(),
            stored.json["warnings"].as_array().map(Vec::len)
        ),
        (201, Some(4))
    );
    let first = &stored.json["warnings"][0];
    assert_eq!(
        (&first["line"], &first["column"], &first["path"]),
        (&json!(5), &json!(1), &json!("task_handler_class"))
    );
    assert_eq!(
        stored.json["template"]["steps"][0]["service"],
        json!("returns_desk")
    );

    let wrong = format!("{yaml}zork: 1\n{}", "more: 1\n".repeat(200));
    let request = tasker::proto::ValidateTemplateRequest { yaml: wrong };
    let answer = site
        .bench
        .client
        .clone()
        .templates
        .validate_template(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (
            answer.problems.len(),
            answer.problems_total,
            answer.warnings.len()
        ),
        (100, 201, 4)
    );
    assert_eq!(
        answer.problems[99].message,
        "102 more problems from here on are not listed"
    );
    assert!(answer.template.is_none());
}

#[tokio::test]
async fn time_without_a_zone_and_second_correlation_id_are_refused_by_http_names() {
    let site = Site::new().await;
    let submit = |more: serde_json::Value| {
        let mut body = json!({"namespace": "t", "task_name": "chain"});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        site.post("/tasker/tasks", body.to_string())
    };
    for (more, place, detail) in [
        (
            json!({"not_before": "2026-01-01T00:00:00"}),
            "/not_before",
            "not_before: `2026-01-01T00:00:00`: expected a time of RFC 3339 with",
        ),
        (
            json!({"not_before": "9000-01-01T00:00:00Z"}),
            "/not_before",
            "not_before: more than a year ahead",
        ),
        (json!({"context": {"n": "x"}}), "/context/n", "context/n: "),
        (
            json!({"correlation_id": "a", "annotations": {"correlation_id": "b"}}),
            "/annotations/correlation_id",
            "annotations/correlation_id: `correlation_id` is `a`",
        ),
    ] {
        let answer = submit(more).await;
        assert_eq!(
            answer.problem(),
            (400, "INVALID_FIELDS", vec![place.to_owned()]),
            "{}",
            answer.text
        );
        assert!(
            answer.json["detail"].as_str().unwrap().starts_with(detail),
            "{}",
            answer.text
        );
    }
    let broken = site.post("/tasker/tasks", "[]".to_owned()).await;
    assert!(
        broken.json["detail"]
            .as_str()
            .unwrap()
            .starts_with("not a JSON object: "),
        "{}",
        broken.text
    );
    let noted = submit(json!({"annotations": {"correlation_id": "b"}})).await;
    assert_eq!(
        (noted.status.as_u16(), &noted.json["correlation_id"]),
        (201, &json!("b"))
    );
}

#[tokio::test]
async fn invalid_template_is_reported_by_line() {
    let site = Site::new().await;
    let answer = site
        .post(
            "/tasker/templates",
            json!({"yaml": "task_name: 1\nstep_templates: [{}]\n"}).to_string(),
        )
        .await;
    let (status, code, places) = answer.problem();
    assert_eq!((status, code), (400, "INVALID_FIELDS"));
    assert!(
        !places.is_empty() && places.iter().all(|place| place == "/yaml"),
        "{places:?}"
    );
    assert!(
        answer.json["errors"][0]["detail"]
            .as_str()
            .unwrap()
            .starts_with("line 1, column "),
        "{}",
        answer.text
    );
}
