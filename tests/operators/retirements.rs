//! Retired versions: no server accepts a new task of one, and every task accepted before goes on.

use std::time::Duration;

use futures_util::future::join_all;
use tasker::{
    proto::{
        self, EventType, ListTemplatesRequest, RetireTemplateRequest, StartFrom, SubmitTaskRequest,
        TaskState,
    },
    store::{
        bench::fixtures::{self, Kind},
        pipeline::STATEMENTS,
        retirement::{self, MAX_COUNTED, Retired},
        service::Actor,
    },
};
use tasker_worker::client::Client;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::support::{
    invariants::invariants,
    server::{Bench, PATIENCE, TestServer, finished, reason, register, state, submission},
    worker::{RawWorker, success},
};

fn yaml(version: &str) -> String {
    format!(
        "{{task_name: one, namespace: t, version: {version}, step_templates: [{{name: a, handler_class: h}}]}}"
    )
}

fn order(version: &str) -> RetireTemplateRequest {
    RetireTemplateRequest {
        namespace: "t".into(),
        task_name: "one".into(),
        version: version.into(),
        by: "ann".into(),
        reason: "a bad release".into(),
    }
}

async fn retire(client: &mut Client, version: &str) -> Result<proto::Template, Status> {
    let response = client.templates.retire_template(order(version)).await;
    response.map(|r| r.into_inner().template.unwrap())
}

fn of_version(version: &str) -> SubmitTaskRequest {
    SubmitTaskRequest {
        version: version.into(),
        ..submission("t/one", "{}")
    }
}

async fn submit(
    client: &mut Client,
    request: SubmitTaskRequest,
) -> Result<proto::SubmitTaskResponse, Status> {
    Ok(client.tasks.submit_task(request).await?.into_inner())
}

async fn listed(client: &mut Client, include_retired: bool) -> Vec<String> {
    let (mut versions, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListTemplatesRequest {
            namespace: "t".into(),
            page_size: 1,
            page_token,
            include_retired,
        };
        let page = client.templates.list_templates(request).await.unwrap();
        let page = page.into_inner();
        versions.extend(page.templates.into_iter().map(|t| t.version));
        if page.next_page_token.is_empty() {
            return versions;
        }
        page_token = page.next_page_token;
    }
}

/// The events about retired and restored versions, up to the first one that was restored.
async fn told(client: &mut Client) -> Vec<(EventType, String, String, String)> {
    let request = proto::SubscribeRequest {
        start_from: StartFrom::Beginning.into(),
        ..Default::default()
    };
    let mut stream = client.events.subscribe(request).await.unwrap().into_inner();
    let mut found = Vec::new();
    loop {
        let next = tokio::time::timeout(PATIENCE, stream.message()).await;
        let Some(event) = next.expect("an event").unwrap().unwrap().event else {
            continue;
        };
        let kind = event.r#type();
        if matches!(
            kind,
            EventType::TemplateRetired | EventType::TemplateRestored
        ) {
            found.push((kind, event.version, event.actor, event.detail));
        }
        if kind == EventType::TemplateRestored {
            return found;
        }
    }
}

#[tokio::test]
async fn retired_version_refuses_tasks_until_it_is_registered_again() {
    let mut bench = Bench::with(&yaml("1.0.0")).await;
    register(&mut bench.client, &yaml("2.0.0")).await;
    let retired = retire(&mut bench.client, "2.0.0").await.unwrap();
    assert_eq!(
        (retired.retired_by.as_str(), retired.retired_reason.as_str()),
        ("ann", "a bad release")
    );
    assert!(retired.retired_at.is_some());
    let again = RetireTemplateRequest {
        by: "bob".into(),
        ..order("2.0.0")
    };
    let again = bench.client.templates.retire_template(again).await.unwrap();
    assert_eq!(
        again.into_inner().template.unwrap(),
        retired,
        "the first order stays"
    );

    // The newest of the remaining versions stands for "the newest".
    let accepted = submit(&mut bench.client, submission("t/one", "{}")).await;
    let accepted = accepted.unwrap();
    assert_eq!(accepted.version, "1.0.0");
    let refused = submit(&mut bench.client, of_version("2.0.0"))
        .await
        .unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str(), refused.message()),
        (
            Code::FailedPrecondition,
            "TEMPLATE_RETIRED",
            "t/one version 2.0.0 was retired by ann: a bad release; `tasker template register FILE` with the same content ends \
             the retirement, or submit to another version"
        )
    );
    assert_eq!(listed(&mut bench.client, false).await, ["1.0.0"]);
    assert_eq!(listed(&mut bench.client, true).await, ["2.0.0", "1.0.0"]);

    // All versions are retired.
    bench.cancel(&accepted.task_id).await.unwrap();
    retire(&mut bench.client, "1.0.0").await.unwrap();
    let refused = submit(&mut bench.client, submission("t/one", "{}"))
        .await
        .unwrap_err();
    assert!(
        refused.message().starts_with(
            "every version is retired: t/one version 2.0.0 was retired by ann: a bad release; `tasker template register"
        ),
        "{refused:?}"
    );
    assert!(listed(&mut bench.client, false).await.is_empty());

    let same = format!("# The same in other words.\n{}", yaml("2.0.0"));
    let back = register(&mut bench.client, &same).await;
    assert_eq!((back.created, back.restored), (false, true));
    let noop = register(&mut bench.client, &same).await;
    assert_eq!((noop.created, noop.restored), (false, false));
    let accepted = submit(&mut bench.client, submission("t/one", "{}")).await;
    assert_eq!(accepted.unwrap().version, "2.0.0");
    let said = |kind, version: &str, by: &str, why: &str| {
        (kind, version.to_owned(), by.to_owned(), why.to_owned())
    };
    assert_eq!(
        told(&mut bench.client).await,
        [
            said(EventType::TemplateRetired, "2.0.0", "ann", "a bad release"),
            said(EventType::TemplateRetired, "1.0.0", "ann", "a bad release"),
            said(EventType::TemplateRestored, "2.0.0", "", "registered again"),
        ]
    );
    invariants(&bench.db.connect().await).await;
}

#[tokio::test]
async fn version_in_use_is_not_retired() {
    let mut bench = Bench::with(&yaml("1.0.0")).await;
    let first = bench.submit("t/one", "{}").await;
    let refused = retire(&mut bench.client, "1.0.0").await.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str(), refused.message()),
        (
            Code::FailedPrecondition,
            "TEMPLATE_IN_USE",
            &*format!(
                "t/one version 1.0.0 is in use: 1 of its tasks is not finished, such as {first}; retire it when they are finished \
                 or cancelled"
            )
        )
    );
    let second = bench.submit("t/one", "{}").await;
    for id in [&first, &second] {
        bench.cancel(id).await.unwrap();
    }
    retire(&mut bench.client, "1.0.0").await.unwrap();
}

#[tokio::test]
async fn unfinished_tasks_are_counted_up_to_a_bound() {
    let bench = Bench::with(&yaml("1.0.0")).await;
    let db = bench.db.db();
    let client = bench.db.connect().await;
    let id = client
        .query_one("SELECT template_id FROM templates", &[])
        .await
        .unwrap();
    let id: i32 = id.get(0);
    let actor = Actor {
        by: "ann".into(),
        reason: "why".into(),
    };
    fixtures::fill(&db, Kind::Waiting, id, MAX_COUNTED - 1, &|_| {})
        .await
        .unwrap();
    for (tasks, at_least) in [(MAX_COUNTED - 1, false), (MAX_COUNTED, true)] {
        match retirement::retire(&db, id, &actor, "").await.unwrap() {
            Retired::InUse(found) => {
                assert_eq!((found.tasks, found.at_least), (tasks, at_least));
            }
            other => panic!("{other:?}"),
        }
        client
            .execute(
                "INSERT INTO queue (task_id, step, template_id, lane_id, priority, state, due, ready_at)
                 SELECT gen_random_uuid(), 0, template_id, lane_id, 0, 'ready', true, now() FROM queue LIMIT 1",
                &[],
            )
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn repeated_submit_to_a_retired_version_returns_the_first_task() {
    let mut bench = Bench::with(&yaml("1.0.0")).await;
    let keyed = |key: &str| SubmitTaskRequest {
        idempotency_key: key.into(),
        ..submission("t/one", "{}")
    };
    let first = submit(&mut bench.client, keyed("k")).await.unwrap();
    bench.cancel(&first.task_id).await.unwrap();
    retire(&mut bench.client, "1.0.0").await.unwrap();
    let repeat = submit(&mut bench.client, keyed("k")).await.unwrap();
    assert_eq!((&repeat.task_id, repeat.created), (&first.task_id, false));
    let refused = submit(&mut bench.client, keyed("new")).await.unwrap_err();
    assert_eq!(reason(&refused), "TEMPLATE_RETIRED");
    // The key of a refused submit is free.
    register(&mut bench.client, &yaml("1.0.0")).await;
    assert!(
        submit(&mut bench.client, keyed("new"))
            .await
            .unwrap()
            .created
    );
}

#[tokio::test]
async fn retirement_without_version_author_or_reason_is_refused() {
    let mut bench = Bench::with(&yaml("1.0.0")).await;
    let mut refused = async |request: RetireTemplateRequest| {
        let answer = bench.client.templates.retire_template(request).await;
        let status = answer.unwrap_err();
        let details = status.get_error_details();
        let fields = details.bad_request().map(|all| {
            let field = |v: &tonic_types::FieldViolation| v.field.clone();
            all.field_violations.iter().map(field).collect::<Vec<_>>()
        });
        (status.code(), fields.unwrap_or_default().join(" "))
    };
    let right = || order("1.0.0");
    for (request, fields) in [
        (order(""), "version"),
        (order("1"), "version"),
        (
            RetireTemplateRequest {
                namespace: String::new(),
                ..right()
            },
            "namespace",
        ),
        (
            RetireTemplateRequest {
                task_name: String::new(),
                ..right()
            },
            "task_name",
        ),
        (
            RetireTemplateRequest {
                by: String::new(),
                reason: " ".into(),
                ..right()
            },
            "by reason",
        ),
        (
            RetireTemplateRequest {
                reason: "r".repeat(1_025),
                ..right()
            },
            "reason",
        ),
    ] {
        let expected = (Code::InvalidArgument, fields.to_owned());
        assert_eq!(refused(request.clone()).await, expected, "{request:?}");
    }
    assert_eq!(refused(order("9.0.0")).await.0, Code::NotFound);
    assert_eq!(listed(&mut bench.client, false).await, ["1.0.0"]);
}

#[tokio::test]
async fn retirement_waits_for_earlier_submits_and_not_for_a_backup() {
    let mut bench = Bench::with(&yaml("1.0.0")).await;
    register(&mut bench.client, &yaml("2.0.0")).await;
    let (_, sql) = STATEMENTS
        .iter()
        .find(|(name, _)| *name == "newest_template")
        .unwrap();
    // This session stands for a server that is stopped in the middle of a submit.
    let submitter = bench.db.connect().await;
    submitter
        .batch_execute(&format!("BEGIN; PREPARE newest AS {sql}; EXECUTE newest"))
        .await
        .unwrap();
    let refused = retire(&mut bench.client, "1.0.0").await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (
            Code::Unavailable,
            "a submit that began earlier has not ended; try again"
        )
    );
    // The refused order changed nothing and delays no submit.
    let accepted = submit(&mut bench.client, of_version("1.0.0")).await;
    bench.cancel(&accepted.unwrap().task_id).await.unwrap();
    submitter.batch_execute("COMMIT").await.unwrap();

    let backup = bench.db.connect().await;
    backup
        .batch_execute(
            "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM retirements, templates",
        )
        .await
        .unwrap();
    retire(&mut bench.client, "1.0.0").await.unwrap();
    backup.batch_execute("COMMIT").await.unwrap();
}

/// Without a worker an accepted task stays unfinished: so either the version is retired, or a task
/// of it is accepted.
#[tokio::test]
async fn concurrent_retirement_and_submit_do_not_both_succeed() {
    const ROUNDS: u64 = 24;
    let bench = Bench::new().await;
    let other = TestServer::start(&bench.db).await;
    let (mut here, there) = (bench.client.clone(), other.client().await);
    let mut accepted = Vec::new();
    for round in 0..ROUNDS {
        let version = format!("1.0.{round}");
        register(&mut here, &yaml(&version)).await;
        // The delays vary, so that the order meets the submits at different moments.
        let submits = join_all((0..4_u64).map(|i| {
            let (mut client, version) = (there.clone(), version.clone());
            async move {
                tokio::time::sleep(Duration::from_micros(i * 700)).await;
                submit(&mut client, of_version(&version)).await
            }
        }));
        let mut operator = here.clone();
        let order = async {
            tokio::time::sleep(Duration::from_micros(round * 150)).await;
            retire(&mut operator, &version).await
        };
        let (order, submits) = tokio::join!(order, submits);
        let before = accepted.len();
        for submit in submits {
            match submit {
                Ok(task) => accepted.push(task.task_id),
                Err(status) => assert_eq!(reason(&status), "TEMPLATE_RETIRED", "{status:?}"),
            }
        }
        match order {
            Ok(_) => assert_eq!(accepted.len(), before, "{version} was retired in use"),
            Err(status) => {
                assert_eq!(reason(&status), "TEMPLATE_IN_USE", "{status:?}");
                assert_eq!(accepted.len(), before + 4, "{version} refused a submit");
            }
        }
    }
    let mut worker = RawWorker::connect(&other.url, &["h"]).await;
    for _ in &accepted {
        let assignment = worker.assignment().await;
        worker.settle(&assignment, success("1")).await;
    }
    for id in &accepted {
        assert_eq!(state(&finished(&mut here, id).await), TaskState::Complete);
    }
    invariants(&bench.db.connect().await).await;
}
