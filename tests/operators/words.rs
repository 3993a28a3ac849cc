//! The actor and the reason of an order: an order without either is refused.

use tasker::proto;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::{
    support::server::Bench,
    verb::{ALL, OF_STEPS, Verb, rows, say_as},
};

const IDLE: &str = "{task_name: idle, namespace: t, version: 1.0.0, step_templates: [{name: a, handler_class: nobody}]}";

#[tokio::test]
async fn order_with_author_or_reason_out_of_bounds_is_refused() {
    let mut bench = Bench::with(IDLE).await;
    let id = bench.submit("t/idle", "{}").await;
    let before = rows(&bench, &id).await;
    let (longest_by, longest_reason) = ("b".repeat(255), "r".repeat(1_024));
    for verb in ALL.into_iter().chain(OF_STEPS) {
        for (by, reason, field) in [
            ("", "why", "by"),
            (" ", "why", "by"),
            ("ann", "", "reason"),
            ("ann", "\n", "reason"),
            (&*"b".repeat(256), "why", "by"),
            ("ann", &*"r".repeat(1_025), "reason"),
            ("a\0", "why", "by"),
        ] {
            let status = say_as(&mut bench.client, verb, &id, "a", by, reason)
                .await
                .unwrap_err();
            assert_eq!(status.code(), Code::InvalidArgument, "{verb:?}: {status:?}");
            assert!(
                status
                    .message()
                    .starts_with(&format!("{field}: expected 1 to ")),
                "{}",
                status.message()
            );
        }
        let neither = say_as(&mut bench.client, verb, &id, "a", "", "")
            .await
            .unwrap_err();
        assert_eq!(violated(&neither), ["by", "reason"], "{verb:?}");
    }
    assert_eq!(rows(&bench, &id).await, before);
    let paused = say_as(
        &mut bench.client,
        Verb::Pause,
        &id,
        "",
        &longest_by,
        &longest_reason,
    )
    .await
    .unwrap();
    assert_eq!(
        (paused.paused_by, paused.pause_reason),
        (longest_by, longest_reason)
    );
    say_as(&mut bench.client, Verb::Cancel, &id, "", "a", "b")
        .await
        .unwrap();
}

/// The fields that a status names.
fn violated(status: &tonic::Status) -> Vec<String> {
    let details = status.get_error_details();
    details
        .bad_request()
        .unwrap()
        .field_violations
        .iter()
        .map(|violation| violation.field.clone())
        .collect()
}

#[tokio::test]
async fn dry_run_needs_neither_author_nor_reason() {
    let mut bench = Bench::with(IDLE).await;
    bench.submit("t/idle", "{}").await;
    let request = |dry_run: bool, by: &str| proto::OrderTasksRequest {
        filter: Some(proto::TaskFilter {
            namespace: "t".into(),
            ..Default::default()
        }),
        order: proto::BulkOrder::Cancel.into(),
        by: by.into(),
        dry_run,
        ..Default::default()
    };
    let mut counted = bench
        .client
        .tasks
        .order_tasks(request(true, ""))
        .await
        .unwrap()
        .into_inner();
    let only = counted.message().await.unwrap().unwrap();
    assert!(
        only.done && only.total == 1 && only.followed == 0,
        "{only:?}"
    );
    let refused = bench
        .client
        .tasks
        .order_tasks(request(false, ""))
        .await
        .unwrap_err();
    assert_eq!(violated(&refused), ["by", "reason"]);
    // A given value must still be within its bounds.
    let refused = bench
        .client
        .tasks
        .order_tasks(request(true, &"b".repeat(256)))
        .await
        .unwrap_err();
    assert_eq!(violated(&refused), ["by"]);
}

#[tokio::test]
async fn orders_without_a_target_are_refused() {
    let mut bench = Bench::with(IDLE).await;
    let id = bench.submit("t/idle", "{}").await;
    let nobody = "00000000-0000-7000-8000-000000000000";
    for verb in ALL.into_iter().chain(OF_STEPS) {
        let status = say_as(&mut bench.client, verb, nobody, "a", "ann", "why")
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{verb:?}");
        let status = say_as(&mut bench.client, verb, "x", "a", "ann", "why")
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{verb:?}");
    }
    for verb in OF_STEPS {
        let status = say_as(&mut bench.client, verb, &id, "z", "ann", "why")
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{verb:?}");
        assert!(
            status.message().contains("no step `z`"),
            "{}",
            status.message()
        );
    }
    let resolve = |step: &str, result_json: &str| proto::ResolveTaskRequest {
        task_id: id.clone(),
        step: step.into(),
        result_json: result_json.into(),
        by: "ann".into(),
        reason: "why".into(),
    };
    let mut client = bench.client.clone();
    let largest = format!("\"{}\"", "x".repeat((1 << 20) - 2));
    for wrong in [
        resolve("a", "{"),
        resolve("a", &format!("{largest} ")),
        resolve("", "1"),
    ] {
        let status = client.tasks.resolve_task(wrong).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(
            status.message().starts_with("result_json: "),
            "{}",
            status.message()
        );
    }
    client
        .tasks
        .resolve_task(resolve("a", &largest))
        .await
        .unwrap();
    let skip = proto::SkipStepRequest {
        task_id: id.clone(),
        by: "ann".into(),
        reason: "why".into(),
        step: String::new(),
    };
    assert_eq!(
        client.tasks.skip_step(skip).await.unwrap_err().code(),
        Code::InvalidArgument
    );
}

#[tokio::test]
async fn pause_of_an_unknown_template_is_refused() {
    let mut bench = Bench::with(IDLE).await;
    let pause = |namespace: &str, task_name: &str, by: &str| proto::PauseTemplateRequest {
        namespace: namespace.into(),
        task_name: task_name.into(),
        by: by.into(),
        reason: "why".into(),
    };
    for (wrong, code) in [
        (pause("t", "none", "ann"), Code::NotFound),
        (pause("none", "", "ann"), Code::NotFound),
        (pause("", "idle", "ann"), Code::InvalidArgument),
        (pause("t", "idle", ""), Code::InvalidArgument),
    ] {
        assert_eq!(
            bench
                .client
                .tasks
                .pause_template(wrong)
                .await
                .unwrap_err()
                .code(),
            code
        );
    }
    let listed = bench
        .client
        .tasks
        .list_pauses(proto::ListPausesRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(listed.pauses.is_empty());
}
