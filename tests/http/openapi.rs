//! The OpenAPI document: it is well-formed, it contains every route, and the server's real answers
//! fit it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::{
    site::{Answer, CHAIN, Site},
    support::worker::{RawWorker, permanent, retryable, success},
};

/// Follows a path of keys.
fn at<'a>(value: &'a Value, keys: &[&str]) -> &'a Value {
    keys.iter().fold(value, |value, key| &value[*key])
}

fn operations(document: &Value) -> BTreeMap<(String, String), Value> {
    let paths = document["paths"].as_object().unwrap();
    let of = |(path, methods): (&String, &Value)| {
        let methods = methods.as_object().unwrap().clone();
        methods
            .into_iter()
            .map(|(method, op)| ((method, path.clone()), op))
            .collect::<Vec<_>>()
    };
    paths.iter().flat_map(of).collect()
}

/// Every `$ref` in a value.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            members
                .iter()
                .for_each(|(key, value)| match (key.as_str(), value) {
                    ("$ref", Value::String(to)) => drop(found.insert(to.clone())),
                    (_, value) => references(value, found),
                });
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

#[tokio::test]
async fn openapi_document_is_valid() {
    let site = Site::new().await;
    let document = site.get("/tasker/openapi.json").await.json;
    assert_eq!(
        (&document["openapi"], &document["info"]["version"]),
        (&json!("3.1.0"), &json!(env!("CARGO_PKG_VERSION")))
    );
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    for to in &found {
        assert!(
            document
                .pointer(to.trim_start_matches('#'))
                .is_some_and(Value::is_object),
            "{to} leads nowhere"
        );
    }
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for (name, schema) in schemas {
        assert!(
            found.contains(&format!("#/components/schemas/{name}")),
            "{name} is not used"
        );
        assert!(
            jsonschema::draft202012::meta::is_valid(schema),
            "{name}: {schema}"
        );
    }
    let mut ids = BTreeSet::new();
    for ((method, path), operation) in operations(&document) {
        assert!(
            ids.insert(operation["operationId"].as_str().unwrap().to_owned()),
            "{path}: used twice"
        );
        assert!(
            operation["summary"].as_str().is_some_and(|s| !s.is_empty()),
            "{path}"
        );
        let in_path: BTreeSet<&str> = path.split(['{', '}']).skip(1).step_by(2).collect();
        let empty = Vec::new();
        let parameters = operation["parameters"].as_array().unwrap_or(&empty);
        let declared = parameters
            .iter()
            .filter(|p| p["in"] == "path")
            .map(|p| p["name"].as_str().unwrap());
        assert_eq!(in_path, declared.collect(), "{path}");
        assert_eq!(
            method == "post",
            operation["requestBody"].is_object(),
            "{method} {path}"
        );
        assert!(
            operation["responses"]
                .as_object()
                .is_some_and(|r| !r.is_empty()),
            "{path}"
        );
    }
}

/// Checks answers against the document and records the checked routes.
struct Checked {
    document: Value,
    seen: BTreeSet<(String, String)>,
}

impl Checked {
    /// Closes every schema, so that a key missing from it is detected.
    fn new(mut document: Value) -> Self {
        let schemas = document["components"]["schemas"].as_object_mut().unwrap();
        for schema in schemas.values_mut() {
            schema["additionalProperties"] = false.into();
        }
        Self {
            document,
            seen: BTreeSet::new(),
        }
    }

    fn schema_of(&self, content: &Value) -> jsonschema::Validator {
        let mut schema = content["schema"].clone();
        schema["components"] = self.document["components"].clone();
        jsonschema::draft202012::options()
            .should_validate_formats(true)
            .build(&schema)
            .unwrap()
    }

    fn answer(&mut self, method: &str, path: &str, answer: &Answer) {
        let operation = at(&self.document, &["paths", path, method]);
        assert!(
            operation.is_object(),
            "{method} {path} is not in the document"
        );
        let responses = &operation["responses"];
        let status = answer.status.as_u16().to_string();
        let response = if responses[&status].is_object() {
            &responses[&status]
        } else {
            &responses["default"]
        };
        let media = answer.headers["content-type"]
            .to_str()
            .unwrap()
            .split(';')
            .next()
            .unwrap();
        let content = at(response, &["content", media]);
        assert!(
            content.is_object(),
            "{method} {path} answers {status} with {media}, which the document does not say"
        );
        let wrong: Vec<String> = self
            .schema_of(content)
            .iter_errors(&answer.json)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(
            wrong.is_empty(),
            "{method} {path} {status}: {wrong:#?}\n{}",
            answer.text
        );
        if answer.status.is_success() {
            self.seen.insert((method.to_owned(), path.to_owned()));
        }
    }

    /// Asserts whether a request's body fits the document.
    fn request(&self, path: &str, body: &Value, fits: bool) {
        let content = at(
            &self.document,
            &[
                "paths",
                path,
                "post",
                "requestBody",
                "content",
                "application/json",
            ],
        );
        assert_eq!(
            self.schema_of(content).is_valid(body),
            fits,
            "{path}: {body}"
        );
    }
}

/// Tasks in all of their states, with failures, retries and a cancel.
async fn tasks_of_all_kinds(site: &Site) -> Vec<String> {
    let mut worker = RawWorker::connect(&site.bench.server.url, &["h"]).await;
    let complete = site.submit(r#"{"n":1}"#).await;
    for _ in 0..2 {
        let step = worker.assignment().await;
        worker.settle(&step, success(r#"{"ok":[true]}"#)).await;
    }
    let failed = site.submit("{}").await;
    let step = worker.assignment().await;
    worker.settle(&step, permanent("no", "NO")).await;
    let retrying = site.submit("{}").await;
    let step = worker.assignment().await;
    worker
        .settle(
            &step,
            retryable("later", Some(std::time::Duration::from_secs(60))),
        )
        .await;
    let cancelled = site.submit("{}").await;
    worker.assignment().await;
    let running = site.submit("{}").await;
    worker.assignment().await;
    vec![complete, failed, retrying, cancelled, running]
}

async fn circuits(site: &Site, checked: &mut Checked) {
    for path in [
        "/tasker/analytics/performance",
        "/tasker/analytics/bottlenecks",
    ] {
        for query in ["?namespace=t", "?namespace=none", "?window_seconds=-1"] {
            checked.answer("get", path, &site.get(&format!("{path}{query}")).await);
        }
    }
    checked.answer(
        "get",
        "/tasker/circuits",
        &site.get("/tasker/circuits").await,
    );
    checked.answer(
        "get",
        "/tasker/circuits",
        &site.get("/tasker/circuits?page_size=-1").await,
    );
    let policy = json!({"namespace": "t", "service": "h", "policy": {"probes": 2}, "by": "me", "reason": "why"});
    checked.request("/tasker/circuits/policy", &policy, true);
    checked.answer(
        "post",
        "/tasker/circuits/policy",
        &site
            .post("/tasker/circuits/policy", policy.to_string())
            .await,
    );
    let path = "/tasker/circuits/{namespace}/{service}";
    checked.answer("get", path, &site.get("/tasker/circuits/t/h").await);
    checked.answer("get", path, &site.get("/tasker/circuits/t/none").await);
    let force = json!({"state": "open", "expires_after": "60s", "by": "me", "reason": "why"});
    checked.request(&format!("{path}/force"), &force, true);
    checked.answer(
        "post",
        &format!("{path}/force"),
        &site
            .post("/tasker/circuits/t/h/force", force.to_string())
            .await,
    );
    let reset = json!({"by": "me", "reason": "why"});
    checked.answer(
        "post",
        &format!("{path}/reset"),
        &site
            .post("/tasker/circuits/t/h/reset", reset.to_string())
            .await,
    );
    checked.answer(
        "post",
        &format!("{path}/reset"),
        &site.post("/tasker/circuits/t/h/reset", "{}").await,
    );
}

/// The orders of operators; `tasks` are those of [`tasks_of_all_kinds`].
async fn orders(site: &Site, checked: &mut Checked, tasks: &[String]) {
    let who = json!({"by": "me", "reason": "why"});
    let with = |more: Value| {
        let mut body = who.clone();
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    let calls = [
        ("pause", &tasks[4], with(json!({}))),
        ("resume", &tasks[4], with(json!({}))),
        ("skip", &tasks[2], with(json!({"step": "b"}))),
        (
            "resolve",
            &tasks[2],
            with(json!({"step": "a", "result": {"by": "hand"}})),
        ),
        ("retry", &tasks[1], with(json!({"fresh_attempts": true}))),
    ];
    for (verb, id, body) in calls {
        let path = format!("/tasker/tasks/{{task_id}}/{verb}");
        checked.request(&path, &body, true);
        let answer = site
            .post(&path.replace("{task_id}", id), body.to_string())
            .await;
        assert!(answer.status.is_success(), "{verb}: {}", answer.text);
        checked.answer("post", &path, &answer);
        // Without `by` and `reason`.
        checked.answer(
            "post",
            &path,
            &site.post(&path.replace("{task_id}", id), "{}").await,
        );
    }
    let bulk = with(json!({"order": "pause", "filter": {"namespace": "t"}, "dry_run": true}));
    checked.request("/tasker/tasks/order", &bulk, true);
    checked.answer(
        "post",
        "/tasker/tasks/order",
        &site.post("/tasker/tasks/order", bulk.to_string()).await,
    );
    checked.answer(
        "post",
        "/tasker/tasks/order",
        &site.post("/tasker/tasks/order", "{}").await,
    );
    let pause = with(json!({"namespace": "t", "task_name": "chain"}));
    for path in ["/tasker/pauses", "/tasker/pauses/lift"] {
        checked.request(path, &pause, true);
        checked.answer("post", path, &site.post(path, pause.to_string()).await);
        checked.answer("get", "/tasker/pauses", &site.get("/tasker/pauses").await);
        checked.answer("post", path, &site.post(path, "{}").await);
    }
}

/// Tasks one by one and in lists.
async fn tasks(site: &Site, checked: &mut Checked, tasks: &[String]) {
    let cancel = json!({"by": "me", "reason": "why"});
    checked.request("/tasker/tasks/{task_id}/cancel", &cancel, true);
    let path = "/tasker/tasks/{task_id}/cancel";
    checked.answer(
        "post",
        path,
        &site
            .post(&path.replace("{task_id}", &tasks[3]), cancel.to_string())
            .await,
    );
    checked.answer(
        "post",
        path,
        &site.post(&path.replace("{task_id}", "x"), "{}").await,
    );
    checked.answer(
        "post",
        path,
        &site.post(&path.replace("{task_id}", &tasks[3]), "{}").await,
    );
    for id in tasks {
        checked.answer(
            "get",
            "/tasker/tasks/{task_id}",
            &site.get(&format!("/tasker/tasks/{id}")).await,
        );
    }
    checked.answer(
        "get",
        "/tasker/tasks/{task_id}",
        &site.get("/tasker/tasks/x").await,
    );
    for query in ["", "?page_size=1", "?states=error", "?states=gone"] {
        checked.answer(
            "get",
            "/tasker/tasks",
            &site.get(&format!("/tasker/tasks{query}")).await,
        );
    }
}

async fn submits(site: &Site, checked: &mut Checked) {
    let submit = json!({"namespace": "t", "task_name": "chain", "context": {"n": 1}, "priority": 3, "version": null});
    checked.request("/tasker/tasks", &submit, true);
    checked.request("/tasker/tasks", &json!({"task_name": 1}), false);
    checked.request("/tasker/tasks", &json!({"context_json": "{}"}), false);
    checked.answer(
        "post",
        "/tasker/tasks",
        &site.post("/tasker/tasks", submit.to_string()).await,
    );
    checked.answer(
        "post",
        "/tasker/tasks",
        &site.post("/tasker/tasks", r#"{"context":[],"x":1}"#).await,
    );
}

async fn templates(site: &Site, checked: &mut Checked) {
    let register = json!({"yaml": CHAIN});
    checked.request("/tasker/templates", &register, true);
    for yaml in [
        CHAIN.to_owned(),
        CHAIN.replace("1.0.0", "1.0.1"),
        String::new(),
    ] {
        let answer = site
            .post("/tasker/templates", json!({"yaml": yaml}).to_string())
            .await;
        checked.answer("post", "/tasker/templates", &answer);
    }
    checked.answer(
        "get",
        "/tasker/templates",
        &site.get("/tasker/templates").await,
    );
    let path = "/tasker/templates/{namespace}/{task_name}";
    checked.answer("get", path, &site.get("/tasker/templates/t/chain").await);
    checked.answer("get", path, &site.get("/tasker/templates/t/none").await);
    let path = "/tasker/templates/{namespace}/{task_name}/{version}/retire";
    let retire = json!({"by": "ann", "reason": "a test"});
    checked.request(path, &retire, true);
    // The first version is in use.
    for version in ["1.0.0", "1.0.1"] {
        let answer = site
            .post(
                &format!("/tasker/templates/t/chain/{version}/retire"),
                retire.to_string(),
            )
            .await;
        checked.answer("post", path, &answer);
    }
}

/// Explanations, and a step alone.
async fn details(site: &Site, checked: &mut Checked, tasks: &[String]) {
    checked.answer(
        "get",
        "/tasker/tasks/{task_id}/explain",
        &site
            .get(&format!("/tasker/tasks/{}/explain", tasks[2]))
            .await,
    );
    checked.answer(
        "get",
        "/tasker/tasks/{task_id}/explain",
        &site.get("/tasker/tasks/x/explain").await,
    );
    let path = "/tasker/tasks/{task_id}/steps/{step}";
    checked.answer(
        "get",
        path,
        &site
            .get(&format!("/tasker/tasks/{}/steps/a", tasks[2]))
            .await,
    );
    checked.answer(
        "get",
        path,
        &site
            .get(&format!("/tasker/tasks/{}/steps/none", tasks[2]))
            .await,
    );
}

#[tokio::test]
async fn every_route_answers_as_documented() {
    let site = Site::new().await;
    let document = site.get("/tasker/openapi.json").await;
    let mut checked = Checked::new(document.json.clone());
    checked.answer("get", "/tasker/openapi.json", &document);
    let ids = tasks_of_all_kinds(&site).await;
    tasks(&site, &mut checked, &ids).await;
    submits(&site, &mut checked).await;
    templates(&site, &mut checked).await;
    details(&site, &mut checked, &ids).await;
    circuits(&site, &mut checked).await;
    orders(&site, &mut checked, &ids).await;
    checked.answer(
        "get",
        "/tasker/events",
        &site.first_event("?start_from=beginning").await,
    );
    checked.answer(
        "get",
        "/tasker/events",
        &site.get("/tasker/events?cursor=x").await,
    );
    let worker = RawWorker::connect(&site.bench.server.url, &["h"]).await;
    checked.answer("get", "/tasker/workers", &site.get("/tasker/workers").await);
    drop(worker);
    for page in ["/livez", "/readyz", "/metrics"] {
        checked.answer("get", page, &site.get(page).await);
    }
    let all: BTreeSet<(String, String)> = operations(&document.json).into_keys().collect();
    assert_eq!(checked.seen, all, "a route without a check of its answers");
}
