//! Templates in the environment of the server that registered them.

use tasker::{
    proto::{RegisterTemplateRequest, ValidateTemplateRequest},
    server::ServerConfig,
};
use tonic::Code;

use crate::support::{
    TestDb,
    process::ServerProcess,
    server::{TestServer, register, submit},
    worker::RawWorker,
};

const YAML: &str = "
namespace: t
task_name: t
version: 1.0.0
step_templates:
- {name: a, handler_class: h, handler_config: {url: test, timeout_seconds: 7}}
environments:
  production:
    step_templates:
    - {name: a, default_retry_limit: 9, handler_config: {url: live}}
";

async fn server(db: &TestDb, environment: &str) -> TestServer {
    TestServer::start_with(
        db,
        ServerConfig {
            environment: environment.into(),
            ..Default::default()
        },
    )
    .await
}

#[tokio::test]
async fn environment_of_the_registering_server_applies_on_all_servers() {
    let db = TestDb::new().await;
    let production = server(&db, "production").await;
    let mut client = production.client().await;
    let registered = register(&mut client, YAML).await.template.unwrap();
    assert_eq!(
        (
            registered.environment.as_str(),
            registered.steps[0].retry_limit
        ),
        ("production", 9)
    );
    // A server of another environment runs the template as it was registered.
    let other = server(&db, "development").await;
    let mut elsewhere = other.client().await;
    submit(&mut elsewhere, "t/t", "{}").await;
    let mut worker = RawWorker::connect(&other.url, &["h"]).await;
    let a = worker.assignment().await;
    assert_eq!(
        (a.handler_config_json.as_str(), a.retry_limit),
        (r#"{"url":"live","timeout_seconds":7}"#, 9)
    );

    let refused = elsewhere
        .templates
        .register_template(RegisterTemplateRequest {
            yaml: YAML.into(),
            deny_warnings: false,
        })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::AlreadyExists);
    assert!(
        refused
            .message()
            .contains("in environment `production`, and this server's is `development`"),
        "{refused:?}"
    );
    assert!(
        !register(&mut client, YAML).await.created,
        "the same where it was registered"
    );
}

#[tokio::test]
async fn problem_in_any_environment_refuses_the_registration() {
    let db = TestDb::new().await;
    let server = ServerProcess::start_with(db.url(), &["--environment", "production"], &[]);
    let mut client = tasker_worker::client::Client::connect(server.address())
        .await
        .unwrap();
    let yaml = YAML.replace("default_retry_limit: 9", "default_retry_limit: 0");
    let problems = client
        .templates
        .validate_template(ValidateTemplateRequest { yaml })
        .await
        .unwrap()
        .into_inner()
        .problems;
    assert_eq!((problems.len(), problems[0].line), (1, 10), "{problems:?}");
    assert_eq!(
        register(&mut client, YAML)
            .await
            .template
            .unwrap()
            .environment,
        "production"
    );
}
