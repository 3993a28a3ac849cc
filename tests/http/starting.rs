//! A server that starts with many templates, or with a slow database: it is alive, reports that it
//! is starting, and serves as soon as it can.

use std::time::{Duration, Instant};

use tasker::{proto, server::ServerConfig, store::template};
use tonic::{Code, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::support::{
    TestDb,
    server::{PATIENCE, TestServer, eventually, register},
};

const ONE: &str = "
task_name: one
namespace: t
version: 1.0.0
step_templates:
  - {name: a, handler_class: h}
";

/// Registers [`ONE`] and copies it under `count` names, each with this many bytes of comment.
async fn many(db: &TestDb, count: i32, padding: i32) {
    let server = TestServer::start(db).await;
    register(&mut server.client().await, ONE).await;
    server.stop().await;
    let copies = "
        WITH copies AS (
            INSERT INTO templates (namespace, task_name, version, yaml, environment)
            SELECT namespace, 'copy_' || n, version,
                   replace(yaml, 'task_name: one', 'task_name: copy_' || n) || '# ' || repeat('x', $2), environment
              FROM templates, generate_series(1, $1) AS n
            RETURNING template_id)
        INSERT INTO template_steps (template_id, step, name, lane_id)
        SELECT c.template_id, s.step, s.name, s.lane_id FROM copies c, template_steps s";
    let session = db.connect().await;
    session.execute(copies, &[&count, &padding]).await.unwrap();
}

async fn pages(db: &TestDb) -> Vec<usize> {
    let db = db.db();
    let (mut known, mut sizes) = (0, Vec::new());
    loop {
        let page = template::page(&db, known).await.unwrap();
        let Some(last) = page.last() else {
            return sizes;
        };
        known = last.template_id;
        sizes.push(page.len());
    }
}

#[tokio::test]
async fn page_of_templates_ends_at_its_number() {
    let db = TestDb::new().await;
    let most = usize::try_from(template::PAGE_TEMPLATES).unwrap();
    many(&db, i32::try_from(most).unwrap() - 1, 0).await;
    assert_eq!(pages(&db).await, [most]);
    let db = TestDb::new().await;
    many(&db, i32::try_from(most).unwrap(), 0).await;
    assert_eq!(pages(&db).await, [most, 1]);
}

#[tokio::test]
async fn page_of_templates_ends_at_its_bytes() {
    let db = TestDb::new().await;
    // Each copy has half a page of comment, so the first page ends after the first template and two
    // copies.
    many(&db, 4, i32::try_from(template::PAGE_BYTES / 2).unwrap()).await;
    assert_eq!(pages(&db).await, [3, 2]);
}

/// More templates than one read could return in its time: each page has the time of one read.
#[tokio::test]
async fn server_with_many_templates_starts() {
    let db = TestDb::new().await;
    many(&db, 12_000, 0).await;
    let server = TestServer::spawn(&db, ServerConfig::default()).await;
    let mut client = server.client().await;
    let asked = Instant::now();
    let request = || proto::GetTemplateRequest {
        namespace: "t".into(),
        task_name: "copy_12000".into(),
        ..Default::default()
    };
    while let Err(status) = client.templates.get_template(request()).await {
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        assert!(asked.elapsed() < 3 * PATIENCE, "{status:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn starting_server_is_live_and_not_ready() {
    let db = TestDb::new().await;
    let mut session = db.connect().await;
    let lock = session.transaction().await.unwrap();
    // A server reads its templates while it starts, and waits for this lock.
    lock.batch_execute("LOCK TABLE templates IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let server = TestServer::spawn(&db, ServerConfig::default()).await;
    let get = async |path: &str| {
        let answer = reqwest::get(format!("{}{path}", server.url)).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };

    assert_eq!(get("/livez").await, (200, "ok\n".to_owned()));
    let (status, text) = get("/readyz").await;
    assert_eq!(status, 503);
    assert!(text.starts_with("starting: "), "{text}");
    let (status, text) = get("/tasker/v1/tasks").await;
    assert_eq!(status, 503);
    assert!(text.contains("STARTING"), "{text}");
    let status = server
        .client()
        .await
        .templates
        .list_templates(proto::ListTemplatesRequest::default())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let channel = Channel::from_shared(server.url.clone())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut health = HealthClient::new(channel);
    let request = HealthCheckRequest {
        service: String::new(),
    };
    let answer = health.check(request).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::NotServing);

    lock.rollback().await.unwrap();
    eventually("it serves", || async {
        (get("/readyz").await.0 == 200).then_some(())
    })
    .await;
}
