//! Accepted and refused submits: cases 18 to 21.

use tasker::proto::{self, SubmitTaskRequest, TaskState};
use tonic_types::StatusExt as _;

use crate::support::{
    server::{Bench, TestServer, state, step, submission},
    worker::{RawWorker, success},
};

const CHAIN: &str = "
task_name: chain
namespace: t
version: 1.0.0
step_templates:
  - {name: a, handler_class: h}
  - {name: b, handler_class: h, depends_on_steps: [a]}
  - {name: c, handler_class: h, depends_on_steps: [b]}
";

const DOCUMENT: &str = r#"{"z":9007199254740993,"a":[1.10,1e400,-0.0,12345678901234567890123],"😀":"\u00e9\ud83d\ude00 é","n":{"x":null,"y":[null,[null]]}}"#;

#[tokio::test]
async fn case_18_result_reaches_the_children_unchanged() {
    let mut bench = Bench::with(CHAIN).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/chain", DOCUMENT).await;
    let a = worker.assignment().await;
    assert_eq!(a.context_json, DOCUMENT);
    worker.answer(&a.lease_token, success(DOCUMENT)).await;
    let b = worker.assignment().await;
    assert_eq!(b.results_json["a"], DOCUMENT);
    worker.answer(&b.lease_token, success("[1]")).await;
    let c = worker.assignment().await;
    // Ancestors, not only parents.
    assert_eq!(
        (c.results_json["a"].as_str(), c.results_json["b"].as_str()),
        (DOCUMENT, "[1]")
    );
    assert_eq!(c.context_json, DOCUMENT);
    worker.settle(&c, success("")).await;
    let task = bench.finished(&id).await;
    assert_eq!(task.task.as_ref().unwrap().context_json, DOCUMENT);
    assert_eq!(step(&task, "a").result_json, DOCUMENT);
    assert_eq!(step(&task, "c").result_json, "null");
}

const SEED: &str = include_str!("../fixtures/user_registration.yaml");

#[tokio::test]
async fn case_19_submit_with_three_violations_reports_all_and_stores_nothing() {
    let mut bench = Bench::with(SEED).await;
    let request = submission(
        "user_management/user_registration",
        r#"{"email":"nope","name":"","plan":"gold"}"#,
    );
    let status = bench.client.tasks.submit_task(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    let details = status.get_error_details();
    let mut fields: Vec<&str> = details
        .bad_request()
        .unwrap()
        .field_violations
        .iter()
        .map(|v| v.field.as_str())
        .collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "context_json/email",
            "context_json/name",
            "context_json/plan"
        ]
    );
    let db = bench.db.connect().await;
    let row = db.query_one(
        "SELECT (SELECT count(*) FROM tasks) + (SELECT count(*) FROM events WHERE task_id IS NOT NULL)",
        &[],
    );
    assert_eq!(row.await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test]
async fn submit_stores_the_defaults_of_the_schema() {
    let mut bench = Bench::with(SEED).await;
    let id = bench
        .submit(
            "user_management/user_registration",
            r#"{"email":"a@b.co","name":"A"}"#,
        )
        .await;
    let task = bench.get(&id).await.task.unwrap();
    let context: serde_json::Value = serde_json::from_str(&task.context_json).unwrap();
    assert_eq!(context["plan"], "free");
    assert_eq!(context["marketing_consent"], false);
    assert!(!task.correlation_id.is_empty());
    let notes: serde_json::Value = serde_json::from_str(&task.annotations_json).unwrap();
    assert_eq!(notes["correlation_id"], task.correlation_id);
}

fn registration(yaml: String) -> proto::RegisterTemplateRequest {
    proto::RegisterTemplateRequest {
        yaml,
        deny_warnings: false,
    }
}

/// A new task gets the newest version, or an older one on request.
async fn new_tasks_get_their_version(bench: &mut Bench) {
    let newest = bench
        .client
        .tasks
        .submit_task(submission("t/chain", "{}"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(newest.version, "2.0.0");
    let old = SubmitTaskRequest {
        version: "1.0.0".into(),
        ..submission("t/chain", "{}")
    };
    assert_eq!(
        bench
            .client
            .tasks
            .submit_task(old)
            .await
            .unwrap()
            .into_inner()
            .version,
        "1.0.0"
    );
}

#[tokio::test]
async fn case_20_registered_version_refuses_other_content() {
    let mut bench = Bench::with(CHAIN).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let id = bench.submit("t/chain", "{}").await;
    let a = worker.assignment().await;
    let changed = registration(CHAIN.replace("{name: c,", "{name: d,"));
    let status = bench
        .client
        .templates
        .register_template(changed)
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::AlreadyExists);
    let same = registration(format!("# a comment\n{CHAIN}"));
    assert!(
        !bench
            .client
            .templates
            .register_template(same)
            .await
            .unwrap()
            .into_inner()
            .created
    );
    let newer = registration(CHAIN.replace("1.0.0", "2.0.0").replace(
        "  - {name: c, handler_class: h, depends_on_steps: [b]}\n",
        "",
    ));
    assert!(
        bench
            .client
            .templates
            .register_template(newer)
            .await
            .unwrap()
            .into_inner()
            .created
    );
    worker.answer(&a.lease_token, success("1")).await;
    for name in ["b", "c"] {
        let next = worker.assignment().await;
        assert_eq!(
            (next.step_name.as_str(), next.version.as_str()),
            (name, "1.0.0")
        );
        worker.answer(&next.lease_token, success("1")).await;
    }
    let task = bench.finished(&id).await;
    assert_eq!((state(&task), task.steps.len()), (TaskState::Complete, 3));
    new_tasks_get_their_version(&mut bench).await;
}

#[tokio::test]
async fn newest_version_is_known_on_every_server_immediately() {
    let mut bench = Bench::with(CHAIN).await;
    let other = TestServer::start(&bench.db).await;
    let mut there = other.client().await;
    for version in ["1.1.0", "1.10.0", "1.9.0"] {
        let yaml = CHAIN.replace("1.0.0", version);
        bench
            .client
            .templates
            .register_template(proto::RegisterTemplateRequest {
                yaml,
                deny_warnings: false,
            })
            .await
            .unwrap();
        let submitted = there
            .tasks
            .submit_task(submission("t/chain", "{}"))
            .await
            .unwrap()
            .into_inner();
        let newest = if version == "1.1.0" {
            "1.1.0"
        } else {
            "1.10.0"
        };
        assert_eq!(submitted.version, newest);
    }
}

fn keyed(context: &str) -> SubmitTaskRequest {
    SubmitTaskRequest {
        idempotency_key: "key".into(),
        ..submission("t/chain", context)
    }
}

#[tokio::test]
async fn case_21_repeated_idempotency_key_returns_the_first_task() {
    let mut bench = Bench::with(CHAIN).await;
    let first = bench
        .client
        .tasks
        .submit_task(keyed(r#"{"a":1,"b":2}"#))
        .await
        .unwrap()
        .into_inner();
    assert!(first.created);
    let again = bench
        .client
        .tasks
        .submit_task(keyed(r#"{ "b": 2, "a": 1 }"#))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (again.task_id.as_str(), again.created),
        (first.task_id.as_str(), false)
    );
    assert_eq!(again.correlation_id, first.correlation_id);
    let status = bench
        .client
        .tasks
        .submit_task(keyed(r#"{"a":2}"#))
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::AlreadyExists);
    let db = bench.db.connect().await;
    assert_eq!(
        db.query_one("SELECT count(*) FROM tasks", &[])
            .await
            .unwrap()
            .get::<_, i64>(0),
        1
    );
}

#[tokio::test]
async fn case_21_concurrent_repeats_on_two_servers_return_one_task() {
    let bench = Bench::with(CHAIN).await;
    let other = TestServer::start(&bench.db).await;
    let mut submits = tokio::task::JoinSet::new();
    for i in 0..40 {
        let url = if i % 2 == 0 {
            bench.server.url.clone()
        } else {
            other.url.clone()
        };
        submits.spawn(async move {
            let mut client = tasker_worker::client::Client::connect(&url).await.unwrap();
            client
                .tasks
                .submit_task(keyed("{}"))
                .await
                .unwrap()
                .into_inner()
        });
    }
    let answers = submits.join_all().await;
    assert_eq!(answers.iter().filter(|a| a.created).count(), 1);
    assert!(answers.iter().all(|a| a.task_id == answers[0].task_id));
    let db = bench.db.connect().await;
    assert_eq!(
        db.query_one("SELECT count(*) FROM tasks", &[])
            .await
            .unwrap()
            .get::<_, i64>(0),
        1
    );
}

#[tokio::test]
async fn group_with_a_used_key_is_refused_and_stores_no_keys() {
    let mut bench = Bench::with(CHAIN).await;
    bench.client.tasks.submit_task(keyed("{}")).await.unwrap();
    let fresh = SubmitTaskRequest {
        idempotency_key: "fresh".into(),
        ..submission("t/chain", "{}")
    };
    let tasks = vec![fresh.clone(), keyed(r#"{"other":1}"#)];
    let status = bench
        .client
        .tasks
        .submit_tasks(proto::SubmitTasksRequest { tasks })
        .await
        .unwrap_err();
    assert_eq!(status.code(), tonic::Code::AlreadyExists);
    let db = bench.db.connect().await;
    assert_eq!(
        db.query_one("SELECT count(*) FROM tasks", &[])
            .await
            .unwrap()
            .get::<_, i64>(0),
        1
    );
    assert!(
        bench
            .client
            .tasks
            .submit_task(fresh)
            .await
            .unwrap()
            .into_inner()
            .created
    );
}
