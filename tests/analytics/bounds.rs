//! Refused requests, and bounded answers.

use std::time::Instant;

use tasker::proto::{GetBottlenecksRequest, GetPerformanceRequest};
use tonic::Code;

use crate::support::{
    server::{Bench, eventually},
    worker::{RawWorker, success},
};

const YAML: &str = "
task_name: one
namespace: t
version: 1.2.0
step_templates:
  - {name: a, handler_class: a}
";

fn of(namespace: &str, task_name: &str, version: &str) -> GetPerformanceRequest {
    GetPerformanceRequest {
        namespace: namespace.into(),
        task_name: task_name.into(),
        version: version.into(),
        ..Default::default()
    }
}

/// Requests at the edge of a field's bounds.
fn good() -> [GetPerformanceRequest; 5] {
    let whole = of("t", "one", "1.2.0");
    [
        GetPerformanceRequest {
            window_seconds: 2_678_400,
            ..whole.clone()
        },
        GetPerformanceRequest {
            window_seconds: 1,
            ..whole.clone()
        },
        GetPerformanceRequest {
            max_tasks: 50_000,
            ..whole.clone()
        },
        GetPerformanceRequest {
            timeout_seconds: 86_400.0,
            ..whole.clone()
        },
        of("", "", ""),
    ]
}

/// Requests beyond the bounds, and the field.
fn bad() -> [(&'static str, GetPerformanceRequest); 10] {
    let whole = of("t", "one", "1.2.0");
    [
        (
            "window_seconds",
            GetPerformanceRequest {
                window_seconds: 2_678_401,
                ..whole.clone()
            },
        ),
        (
            "window_seconds",
            GetPerformanceRequest {
                window_seconds: -1,
                ..whole.clone()
            },
        ),
        (
            "max_tasks",
            GetPerformanceRequest {
                max_tasks: 50_001,
                ..whole.clone()
            },
        ),
        (
            "max_tasks",
            GetPerformanceRequest {
                max_tasks: -1,
                ..whole.clone()
            },
        ),
        (
            "timeout_seconds",
            GetPerformanceRequest {
                timeout_seconds: 86_400.5,
                ..whole.clone()
            },
        ),
        (
            "timeout_seconds",
            GetPerformanceRequest {
                timeout_seconds: -0.5,
                ..whole.clone()
            },
        ),
        (
            "timeout_seconds",
            GetPerformanceRequest {
                timeout_seconds: f64::NAN,
                ..whole.clone()
            },
        ),
        ("version", of("t", "one", "1.2")),
        ("namespace", of("\0", "", "")),
        ("task_name", of("", &"x".repeat(256), "")),
    ]
}

#[tokio::test]
async fn analytics_field_out_of_bounds_is_refused_and_its_edge_accepted() {
    let bench = Bench::with(YAML).await;
    let mut analytics = bench.client.analytics.clone();
    for request in good() {
        analytics.get_performance(request).await.unwrap();
    }
    for (field, request) in bad() {
        let refused = analytics.get_performance(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{field}");
        assert!(
            refused.message().starts_with(&format!("{field}: ")),
            "{}",
            refused.message()
        );
    }
    for unknown in [of("u", "", ""), of("t", "two", ""), of("t", "one", "1.3.0")] {
        assert_eq!(
            analytics.get_performance(unknown).await.unwrap_err().code(),
            Code::NotFound
        );
    }
    for (most, code) in [
        (100, None),
        (101, Some(Code::InvalidArgument)),
        (-1, Some(Code::InvalidArgument)),
    ] {
        let request = GetBottlenecksRequest {
            max_bottlenecks: most,
            ..Default::default()
        };
        assert_eq!(
            analytics
                .get_bottlenecks(request)
                .await
                .err()
                .map(|e| e.code()),
            code,
            "{most}"
        );
    }
}

#[tokio::test]
async fn analytics_over_max_tasks_use_the_newest_and_report_truncation() {
    let mut bench = Bench::with(YAML).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["a"]).await;
    for _ in 0..5 {
        let id = bench.submit("t/one", "{}").await;
        let assignment = worker.assignment().await;
        worker.settle(&assignment, success("1")).await;
        bench.finished(&id).await;
    }
    for (most, tasks, cut) in [(4, 4, true), (5, 5, false), (6, 5, false)] {
        let request = GetPerformanceRequest {
            max_tasks: most,
            ..Default::default()
        };
        let found = bench
            .client
            .analytics
            .get_performance(request)
            .await
            .unwrap()
            .into_inner();
        let examined = found.examined.unwrap();
        assert_eq!(
            (examined.tasks, examined.cut, found.templates[0].count),
            (tasks, cut, tasks),
            "{most}"
        );
    }
}

/// Two long queries run at once: the server refuses the third, and short queries have their
/// connections.
#[tokio::test(flavor = "multi_thread")]
async fn long_analytics_are_limited_in_number_and_time() {
    let mut bench = Bench::with(YAML).await;
    let id = bench.submit("t/one", "{}").await;
    let db = bench.db.connect().await;
    db.batch_execute("BEGIN; LOCK TABLE circuit_changes IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let analytics = bench.client.analytics.clone();
    let ask = || {
        let mut analytics = analytics.clone();
        async move {
            analytics
                .get_performance(of("t", "", ""))
                .await
                .map(|_| ())
                .map_err(|e| e.code())
        }
    };
    let (one, two) = (tokio::spawn(ask()), tokio::spawn(ask()));
    let waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
                      AND query LIKE '%picked%'";
    let watcher = bench.db.connect().await;
    let pids = eventually("both wait", || async {
        let rows = watcher.query(waiting, &[]).await.unwrap();
        (rows.len() == 2).then(|| rows.iter().map(|row| row.get(0)).collect::<Vec<i32>>())
    })
    .await;
    let began = Instant::now();
    assert_eq!(ask().await, Err(Code::Unavailable));
    assert!(
        began.elapsed().as_secs_f64() > 2.0,
        "it waited for its turn"
    );
    bench.get(&id).await;
    // As their time limit would do.
    for pid in pids {
        watcher
            .execute("SELECT pg_cancel_backend($1)", &[&pid])
            .await
            .unwrap();
    }
    for asked in [one, two] {
        assert_eq!(asked.await.unwrap(), Err(Code::ResourceExhausted));
    }
    db.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(ask().await, Ok(()));
}
