//! One order to many tasks.

use std::sync::atomic::Ordering;

use tasker::{
    client::Client,
    proto::{BulkOrder, OrderTasksRequest, TaskFilter},
};
use tonic::Code;

use crate::{
    many::{ONE, Service, count, order, start, submit_many, tell, told, until},
    support::{
        TestDb,
        invariants::invariants,
        process::ServerProcess,
        server::{Bench, register},
    },
};

const MANY: usize = 10_000;

/// A server with so many failed tasks, and a service that is well again.
async fn failed(db: &TestDb, server: &ServerProcess, n: usize) -> (Client, Service, tasker::worker::WorkerHandle) {
    let mut client = Client::connect(&server.url).await.unwrap();
    register(&mut client, ONE).await;
    let service = Service::default();
    service.down.store(true, Ordering::SeqCst);
    let worker = service.worker(&[&server.url]);
    submit_many(&mut client, "t/one", n).await;
    until(&db.connect().await, "error", n).await;
    service.down.store(false, Ordering::SeqCst);
    (client, service, worker)
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_failed_tasks_are_retried_with_progress_and_all_complete() {
    let db = TestDb::new().await;
    let server = ServerProcess::start(db.url());
    let (mut client, service, _worker) = failed(&db, &server, MANY).await;
    let dry = OrderTasksRequest { dry_run: true, ..order(BulkOrder::Retry) };
    let counted = tell(&mut client, dry).await.unwrap();
    assert_eq!(
        counted.iter().map(|news| (news.total, news.followed, news.done)).collect::<Vec<_>>(),
        [(10_000, 0, true)]
    );
    let rows = db.connect().await;
    assert_eq!((count(&rows, "error").await, service.calls.load(Ordering::SeqCst)), (MANY, MANY), "only counted");

    let all = tell(&mut client, order(BulkOrder::Retry)).await.unwrap();
    assert!(all.len() > 10, "{} messages are no progress", all.len());
    assert!(all.windows(2).all(|two| two[0].followed <= two[1].followed && two[1].total == 10_000));
    let last = all.last().unwrap();
    assert_eq!((last.followed, last.refused, last.done), (10_000, 0, true));
    until(&rows, "complete", MANY).await;
    assert_eq!(service.calls.load(Ordering::SeqCst), 2 * MANY, "each was called once more");
    let again = told(&mut client, order(BulkOrder::Retry)).await;
    assert_eq!((again.total, again.followed), (0, 0));
    invariants(&rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_is_left_in_the_middle_is_said_again_and_does_the_rest() {
    let db = TestDb::new().await;
    let server = ServerProcess::start(db.url());
    let (mut client, service, _worker) = failed(&db, &server, MANY).await;
    let mut stream = start(&mut client, order(BulkOrder::Retry)).await;
    for _ in 0..3 {
        stream.message().await.unwrap().unwrap();
    }
    drop(stream);
    let rows = db.connect().await;
    // What nobody listens to ends soon: the rest stays as it is.
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    let left = count(&rows, "error").await;
    assert!(left > 0 && left < MANY, "{left} of {MANY} are left");
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(count(&rows, "error").await, left, "it has stopped");
    let again = told(&mut client, order(BulkOrder::Retry)).await;
    assert_eq!(again.followed, i64::try_from(left).unwrap());
    until(&rows, "complete", MANY).await;
    assert_eq!(service.calls.load(Ordering::SeqCst), 2 * MANY, "nothing was tried twice");
    invariants(&rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_in_the_middle_has_done_what_it_told() {
    let db = TestDb::new().await;
    let mut server = ServerProcess::start(db.url());
    let second = ServerProcess::start(db.url());
    let (mut client, _service, _worker) = failed(&db, &server, MANY).await;
    let mut stream = start(&mut client, order(BulkOrder::Retry)).await;
    let mut told_so_far = 0;
    while told_so_far < 1_000 {
        told_so_far = stream.message().await.unwrap().unwrap().followed;
    }
    server.kill();
    assert!(loop {
        match stream.message().await {
            Ok(Some(news)) if !news.done => told_so_far = news.followed,
            other => break other.is_err(),
        }
    });
    let rows = db.connect().await;
    let left = count(&rows, "error").await;
    assert!(left > 0 && i64::try_from(MANY - left).unwrap() >= told_so_far, "{left} left, {told_so_far} told");
    // Any server does the rest; the worker comes back to the first.
    let server = ServerProcess::start_at(db.url(), server.address());
    let mut client = Client::connect(&second.url).await.unwrap();
    let again = told(&mut client, order(BulkOrder::Retry)).await;
    assert_eq!((again.followed, again.refused), (i64::try_from(left).unwrap(), 0));
    until(&rows, "complete", MANY).await;
    invariants(&rows).await;
    drop(server);
}

#[tokio::test]
async fn an_order_is_for_those_that_fit_and_no_others() {
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
    let middle = prost_types::Timestamp { seconds: 4_000_000_000, nanos: 0 };
    let none = TaskFilter::default;
    let filters = [
        (TaskFilter { namespace: "t".into(), ..none() }, 3),
        (TaskFilter { namespace: "none".into(), ..none() }, 0),
        (TaskFilter { task_name: "one".into(), ..none() }, 2),
        (TaskFilter { task_name: "one".into(), version: "2.0.0".into(), ..none() }, 1),
        (TaskFilter { version: "1.0.0".into(), ..none() }, 2),
        (TaskFilter { correlation_id: "c3".into(), ..none() }, 1),
        (TaskFilter { submitted_after: Some(middle), ..none() }, 0),
        (TaskFilter { submitted_before: Some(middle), ..none() }, 3),
    ];
    for (filter, expected) in filters {
        let request = OrderTasksRequest { filter: Some(filter.clone()), dry_run: true, ..order(BulkOrder::Pause) };
        assert_eq!(told(&mut bench.client, request).await.total, expected, "{filter:?}");
    }
    let fits = |filter| OrderTasksRequest { filter: Some(filter), ..order(BulkOrder::Pause) };
    let paused = told(&mut bench.client, fits(TaskFilter { task_name: "one".into(), ..none() })).await;
    assert_eq!((paused.total, paused.followed, paused.refused), (2, 2, 0));
    // Paused ones are resumed, the others are not asked; then all are cancelled.
    assert_eq!(told(&mut bench.client, order(BulkOrder::Resume)).await.followed, 2);
    assert_eq!(told(&mut bench.client, order(BulkOrder::Cancel)).await.followed, 3);
    let rows = bench.db.connect().await;
    assert_eq!(count(&rows, "cancelled").await, 3);
    invariants(&rows).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_found_by_code_and_time_and_settled() {
    let db = TestDb::new().await;
    let server = ServerProcess::start(db.url());
    let (mut client, _service, _worker) = failed(&db, &server, 20).await;
    let brief = "{task_name: brief, namespace: t, version: 1.0.0, timeout_seconds: 0.1,
                  step_templates: [{name: a, handler_class: nobody}]}";
    register(&mut client, brief).await;
    submit_many(&mut client, "t/brief", 3).await;
    let rows = db.connect().await;
    until(&rows, "error", 23).await;
    let of = |error_code: &str, failed_after: Option<i64>| {
        let failed_after = failed_after.map(|seconds| prost_types::Timestamp { seconds, nanos: 0 });
        Some(TaskFilter { error_code: error_code.into(), failed_after, ..TaskFilter::default() })
    };
    for (filter, expected) in [
        (of("DOWN", None), 20),
        (of("DEADLINE_EXCEEDED", None), 3),
        (of("OTHER", None), 0),
        (of("DOWN", Some(4_000_000_000)), 0),
        (of("", Some(1)), 23),
    ] {
        let request = OrderTasksRequest { filter: filter.clone(), dry_run: true, ..order(BulkOrder::Retry) };
        assert_eq!(told(&mut client, request).await.total, expected, "{filter:?}");
    }
    // Those whose deadline passed refuse to be retried, and say why; they can be settled.
    let last =
        told(&mut client, OrderTasksRequest { filter: of("DEADLINE_EXCEEDED", None), ..order(BulkOrder::Retry) }).await;
    assert_eq!((last.followed, last.refused), (0, 3));
    assert!(last.last_refusal.contains("its deadline has passed"), "{}", last.last_refusal);
    let last =
        told(&mut client, OrderTasksRequest { filter: of("DEADLINE_EXCEEDED", None), ..order(BulkOrder::Resolve) })
            .await;
    assert_eq!((last.followed, last.refused), (3, 0));
    assert_eq!(count(&rows, "resolved_manually").await, 3);
    invariants(&rows).await;
}

#[tokio::test]
async fn an_order_to_nobody_in_particular_by_nobody_or_of_nothing_is_refused() {
    let mut bench = Bench::with(ONE).await;
    let good = order(BulkOrder::Retry);
    for (wrong, field) in [
        (OrderTasksRequest { filter: None, ..good.clone() }, "filter"),
        (OrderTasksRequest { filter: Some(TaskFilter::default()), ..good.clone() }, "filter"),
        (OrderTasksRequest { order: 0, ..good.clone() }, "order"),
        (OrderTasksRequest { order: 99, ..good.clone() }, "order"),
        (OrderTasksRequest { by: String::new(), ..good.clone() }, "by"),
        (OrderTasksRequest { reason: "r".repeat(1_025), ..good.clone() }, "reason"),
        (
            OrderTasksRequest { filter: Some(TaskFilter { version: "x".into(), ..TaskFilter::default() }), ..good },
            "version",
        ),
    ] {
        let status = tell(&mut bench.client, wrong).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().starts_with(field), "{}", status.message());
    }
}
