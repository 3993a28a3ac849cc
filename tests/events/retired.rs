//! A retired version is removed after its last task, and its version number is free.

use tasker::{
    proto::ListTemplatesRequest,
    store::{
        retention,
        retirement::{self, Retired},
        service::Actor,
    },
};

use crate::{
    retention::{MONTH, aged, count},
    support::{
        invariants::invariants,
        server::{TestServer, register, submit},
    },
};

#[tokio::test]
async fn retired_version_is_removed_after_its_last_task() {
    let (db, client) = aged(40, 0).await;
    let sql = async |sql: &str| client.batch_execute(sql).await;
    let server = TestServer::start(&db).await;
    let mut at_server = server.client().await;
    let id = client.query_one("SELECT template_id FROM templates", &[]);
    let id: i32 = id.await.unwrap().get(0);
    let removed = async || {
        let said = retention::survey(&db.db(), MONTH).await.unwrap();
        let done = retention::prune(&db.db(), MONTH).await.unwrap();
        assert_eq!(said, done);
        (done.tasks, done.templates)
    };
    let refused = sql("DELETE FROM template_steps").await.unwrap_err();
    assert!(
        refused
            .as_db_error()
            .unwrap()
            .message()
            .contains("retire it first"),
        "{refused:?}"
    );

    let actor = Actor {
        by: "ann".into(),
        reason: "why".into(),
    };
    let retired = retirement::retire(&db.db(), id, &actor, "").await.unwrap();
    assert_eq!(retired, Retired::Done);
    sql("UPDATE tasks SET ended_at = now() WHERE task_id = (SELECT max(task_id::text)::uuid FROM tasks)")
        .await
        .unwrap();
    assert_eq!(
        removed().await,
        (39, 0),
        "retired a moment ago, and with a task"
    );
    sql("UPDATE retirements SET at = at - interval '31 days'")
        .await
        .unwrap();
    assert_eq!(removed().await, (0, 0), "a task is left");
    sql("UPDATE tasks SET ended_at = now() - interval '31 days'")
        .await
        .unwrap();
    assert_eq!(removed().await, (1, 1));
    assert_eq!(removed().await, (0, 0));
    for table in ["templates", "template_steps"] {
        assert_eq!(count(&client, table).await, 0, "{table}");
    }

    // The running server has read the removal, and the version is free.
    let request = ListTemplatesRequest {
        include_retired: true,
        ..Default::default()
    };
    let list = at_server.templates.list_templates(request).await.unwrap();
    assert_eq!(list.into_inner().templates, []);
    let other = "{task_name: chain, namespace: n, version: 1.0.0, step_templates: [{name: other, handler_class: h}]}";
    assert!(register(&mut at_server, other).await.created);
    submit(&mut at_server, "n/chain", "{}").await;
    invariants(&client).await;
    assert_eq!(
        count(&client, "retirements").await,
        1,
        "other servers read it"
    );
    sql("UPDATE retirements SET at = at - interval '31 days'")
        .await
        .unwrap();
    assert_eq!(removed().await, (0, 0));
    assert_eq!(count(&client, "retirements").await, 0);
}
