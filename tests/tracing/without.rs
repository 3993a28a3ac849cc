//! Off by default, and harmless when the collector is away.

use crate::{
    collector::Collector,
    support::{
        TestDb,
        process::ServerProcess,
        server::{Bench, finished, register, submission},
        worker::{RawWorker, success},
    },
};

const ONE: &str = "
task_name: one
namespace: t
version: 1.0.0
step_templates:
  - {name: a, handler_class: h}
";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test]
async fn trace_without_a_collector_reaches_the_worker_unchanged() {
    let mut bench = Bench::with(ONE).await;
    let mut worker = RawWorker::connect(&bench.server.url, &["h"]).await;
    let mut request = tonic::Request::new(submission("t/one", "{}"));
    request
        .metadata_mut()
        .insert("traceparent", PARENT.parse().unwrap());
    bench.client.tasks.submit_task(request).await.unwrap();
    assert_eq!(worker.assignment().await.traceparent, PARENT);
    // The same over HTTP; a submit without a trace has none.
    let request = reqwest::Client::new()
        .post(format!("{}/tasker/tasks", bench.server.url))
        .header("traceparent", PARENT);
    let request = request
        .header("content-type", "application/json")
        .body(r#"{"namespace":"t","task_name":"one"}"#);
    assert_eq!(request.send().await.unwrap().status(), 201);
    assert_eq!(worker.assignment().await.traceparent, PARENT);
    bench.submit("t/one", "{}").await;
    assert_eq!(worker.assignment().await.traceparent, "");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disabled_or_unreachable_collector_delays_nothing() {
    let (collector, endpoint) = Collector::start().await;
    let cases: [&[(&str, &str)]; 4] = [
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_SDK_DISABLED", "true"),
        ],
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
            ("OTEL_TRACES_EXPORTER", "none"),
        ],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")],
    ];
    for env in cases {
        let db = TestDb::new().await;
        let mut server =
            ServerProcess::start_with(db.url(), &["--listen", "127.0.0.1:0", "--log", "warn"], env);
        let mut client = tasker_worker::client::Client::connect(&server.url)
            .await
            .unwrap();
        register(&mut client, ONE).await;
        let mut worker = RawWorker::connect(&server.url, &["h"]).await;
        let id = client
            .tasks
            .submit_task(submission("t/one", "{}"))
            .await
            .unwrap()
            .into_inner()
            .task_id;
        let step = worker.assignment().await;
        worker.settle(&step, success("1")).await;
        finished(&mut client, &id).await;
        drop(worker);
        assert_eq!(server.terminate(), Some(0), "{env:?}");
    }
    assert!(collector.spans().is_empty(), "{:#?}", collector.spans());
}
