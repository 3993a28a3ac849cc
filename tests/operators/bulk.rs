//! The selection of tasks by bulk orders.

use tasker::proto::{BulkOrder, OrderTasksRequest, OrderTasksResponse, TaskFilter};
use tasker_worker::client::Client;
use tonic::{Code, Status};

use crate::support::{
    invariants::invariants,
    orders::to_all,
    server::{Bench, eventually, register},
    worker::{RawWorker, permanent},
};

const ONE: &str =
    "{task_name: one, namespace: t, version: 1.0.0, step_templates: [{name: a, handler_class: h}]}";

/// Gives the order and returns its last progress message.
async fn tell(
    client: &mut Client,
    request: OrderTasksRequest,
) -> Result<OrderTasksResponse, Status> {
    let mut stream = client.tasks.order_tasks(request).await?.into_inner();
    let mut last = OrderTasksResponse::default();
    while let Some(news) = stream.message().await? {
        last = news;
    }
    assert!(last.done, "{last:?}");
    Ok(last)
}

async fn told(client: &mut Client, request: OrderTasksRequest) -> OrderTasksResponse {
    tell(client, request).await.unwrap()
}

/// Number of tasks in this state.
async fn count(bench: &Bench, state: &str) -> i64 {
    let sql = "SELECT count(*) FROM tasks WHERE state::text = $1";
    bench
        .db
        .connect()
        .await
        .query_one(sql, &[&state])
        .await
        .unwrap()
        .get(0)
}

/// Filters, and how many of the three tasks match each.
fn filters() -> [(TaskFilter, i64); 8] {
    let middle = prost_types::Timestamp {
        seconds: 4_000_000_000,
        nanos: 0,
    };
    let none = TaskFilter::default;
    [
        (
            TaskFilter {
                namespace: "t".into(),
                ..none()
            },
            3,
        ),
        (
            TaskFilter {
                namespace: "none".into(),
                ..none()
            },
            0,
        ),
        (
            TaskFilter {
                task_name: "one".into(),
                ..none()
            },
            2,
        ),
        (
            TaskFilter {
                task_name: "one".into(),
                version: "2.0.0".into(),
                ..none()
            },
            1,
        ),
        (
            TaskFilter {
                version: "1.0.0".into(),
                ..none()
            },
            2,
        ),
        (
            TaskFilter {
                correlation_id: "c3".into(),
                ..none()
            },
            1,
        ),
        (
            TaskFilter {
                submitted_after: Some(middle),
                ..none()
            },
            0,
        ),
        (
            TaskFilter {
                submitted_before: Some(middle),
                ..none()
            },
            3,
        ),
    ]
}

#[tokio::test]
async fn bulk_order_reaches_exactly_the_matching_tasks() {
    let mut bench = Bench::with(ONE).await;
    let other = ONE.replace("one", "other");
    let newer = ONE.replace("1.0.0", "2.0.0");
    for yaml in [&other, &newer] {
        register(&mut bench.client, yaml).await;
    }
    let mut submit = async |name: &str, version: &str, correlation_id: &str| {
        let request = tasker::proto::SubmitTaskRequest {
            version: version.into(),
            correlation_id: correlation_id.into(),
            ..crate::support::server::submission(name, "{}")
        };
        bench.client.tasks.submit_task(request).await.unwrap();
    };
    submit("t/one", "1.0.0", "c1").await;
    submit("t/one", "2.0.0", "c2").await;
    submit("t/other", "1.0.0", "c3").await;
    let none = TaskFilter::default;
    for (filter, expected) in filters() {
        let request = OrderTasksRequest {
            filter: Some(filter.clone()),
            dry_run: true,
            ..to_all(BulkOrder::Pause)
        };
        assert_eq!(
            told(&mut bench.client, request).await.total,
            expected,
            "{filter:?}"
        );
    }
    let fits = |filter| OrderTasksRequest {
        filter: Some(filter),
        ..to_all(BulkOrder::Pause)
    };
    let paused = told(
        &mut bench.client,
        fits(TaskFilter {
            task_name: "one".into(),
            ..none()
        }),
    )
    .await;
    assert_eq!((paused.total, paused.followed, paused.refused), (2, 2, 0));
    // Resume applies to the paused tasks only; cancel then applies to all.
    assert_eq!(
        told(&mut bench.client, to_all(BulkOrder::Resume))
            .await
            .followed,
        2
    );
    assert_eq!(
        told(&mut bench.client, to_all(BulkOrder::Cancel))
            .await
            .followed,
        3
    );
    assert_eq!(count(&bench, "cancelled").await, 3);
    invariants(&bench.db.connect().await).await;
}

#[tokio::test]
async fn failed_tasks_are_selected_by_code_and_time_and_resolved() {
    let mut bench = Bench::with(ONE).await;
    let brief = "{task_name: brief, namespace: t, version: 1.0.0, timeout_seconds: 0.1,
                  step_templates: [{name: a, handler_class: nobody}]}";
    register(&mut bench.client, brief).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    for _ in 0..2 {
        bench.submit("t/one", "{}").await;
        let a = worker.assignment().await;
        worker.settle(&a, permanent("no", "DOWN")).await;
    }
    for _ in 0..3 {
        bench.submit("t/brief", "{}").await;
    }
    eventually("all fail", || async {
        (count(&bench, "error").await == 5).then_some(())
    })
    .await;
    let mut client = bench.client.clone();
    let of = |error_code: &str, failed_after: Option<i64>| {
        let failed_after = failed_after.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 });
        Some(TaskFilter {
            error_code: error_code.into(),
            failed_after,
            ..TaskFilter::default()
        })
    };
    for (filter, expected) in [
        (of("DOWN", None), 2),
        (of("DEADLINE_EXCEEDED", None), 3),
        (of("OTHER", None), 0),
        (of("DOWN", Some(4_000_000_000)), 0),
        (of("", Some(1)), 5),
    ] {
        let request = OrderTasksRequest {
            filter: filter.clone(),
            dry_run: true,
            ..to_all(BulkOrder::Retry)
        };
        assert_eq!(
            told(&mut client, request).await.total,
            expected,
            "{filter:?}"
        );
    }
    // Tasks whose deadline has passed refuse a retry with this reason; they can be resolved.
    let last = told(
        &mut client,
        OrderTasksRequest {
            filter: of("DEADLINE_EXCEEDED", None),
            ..to_all(BulkOrder::Retry)
        },
    )
    .await;
    assert_eq!((last.followed, last.refused), (0, 3));
    assert!(
        last.last_refusal.contains("its deadline has passed"),
        "{}",
        last.last_refusal
    );
    let last = told(
        &mut client,
        OrderTasksRequest {
            filter: of("DEADLINE_EXCEEDED", None),
            ..to_all(BulkOrder::Resolve)
        },
    )
    .await;
    assert_eq!((last.followed, last.refused), (3, 0));
    assert_eq!(count(&bench, "resolved_manually").await, 3);
    invariants(&bench.db.connect().await).await;
}

#[tokio::test]
async fn bulk_order_without_filter_author_or_kind_is_refused() {
    let mut bench = Bench::with(ONE).await;
    let good = to_all(BulkOrder::Retry);
    for (wrong, field) in [
        (
            OrderTasksRequest {
                filter: None,
                ..good.clone()
            },
            "filter",
        ),
        (
            OrderTasksRequest {
                filter: Some(TaskFilter::default()),
                ..good.clone()
            },
            "filter",
        ),
        (
            OrderTasksRequest {
                order: 0,
                ..good.clone()
            },
            "order",
        ),
        (
            OrderTasksRequest {
                order: 99,
                ..good.clone()
            },
            "order",
        ),
        (
            OrderTasksRequest {
                by: String::new(),
                ..good.clone()
            },
            "by",
        ),
        (
            OrderTasksRequest {
                reason: "r".repeat(1_025),
                ..good.clone()
            },
            "reason",
        ),
        (
            OrderTasksRequest {
                filter: Some(TaskFilter {
                    version: "x".into(),
                    ..TaskFilter::default()
                }),
                ..good
            },
            "version",
        ),
    ] {
        let status = tell(&mut bench.client, wrong).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(field), "{}", status.message());
    }
}
