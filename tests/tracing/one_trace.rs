//! One trace from the client over the server and the worker to the service that the handler calls.

use std::sync::{Arc, Mutex};

use opentelemetry::trace::{Span as _, TraceContextExt as _, Tracer as _};
use serde_json::json;
use tasker::{
    proto,
    telemetry::{self, Telemetry},
};
use tasker_worker::{RetryableError, StepContext, StepError, Worker, http};
use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::{
    collector::{Collector, Span},
    support::{
        TestDb,
        process::ServerProcess,
        server::{finished, register, submission},
    },
};

const CALLS: &str = "
task_name: calls
namespace: t
version: 1.0.0
step_templates:
  - {name: call, handler_class: call, handler_config: {service: downstream}, backoff: {base_seconds: 0.01, jitter: 0}}
";

/// A service that records the headers of its calls.
async fn downstream() -> (String, Arc<Mutex<Vec<axum::http::HeaderMap>>>) {
    let calls = Arc::<Mutex<Vec<axum::http::HeaderMap>>>::default();
    let seen = Arc::clone(&calls);
    let app = axum::Router::new().route(
        "/",
        axum::routing::post(move |headers: axum::http::HeaderMap| async move {
            seen.lock().unwrap().push(headers);
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (url, calls)
}

async fn call(url: String, step: StepContext) -> Result<serde_json::Value, StepError> {
    let request = reqwest::Client::new()
        .post(url)
        .headers(http::headers(&step));
    let answer = request
        .send()
        .await
        .map_err(|error| http::connection_error("downstream", &error))?;
    http::check("downstream", answer.status(), answer.headers())?;
    if step.attempt() == 1 {
        return Err(RetryableError::new("not yet").error_code("BUSY").into());
    }
    Ok(json!({"called": true}))
}

fn one<'a>(spans: &'a [Span], service: &str, name: &str, attempt: &str) -> &'a Span {
    let fits = |s: &&Span| {
        let number = s
            .attributes
            .get("tasker.attempt")
            .or_else(|| s.attributes.get("attempt"));
        s.service == service && s.name == name && number.is_none_or(|n| n == attempt)
    };
    let found: Vec<&Span> = spans.iter().filter(fits).collect();
    assert_eq!(found.len(), 1, "{service} {name} {attempt}: {spans:#?}");
    found[0]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::too_many_lines, reason = "one trace, followed span by span")]
async fn one_trace_links_client_server_worker_and_handler_call() {
    let (collector, endpoint) = Collector::start().await;
    let db = TestDb::new().await;
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()),
        ("OTEL_SERVICE_NAME", "server"),
    ];
    let mut server = ServerProcess::start_with(
        db.url(),
        &["--listen", "127.0.0.1:0", "--log", "info"],
        &env,
    );
    // The worker's spans come from `tracing`, as in any service that uses it.
    let of_worker = Telemetry::to(&endpoint, "worker").unwrap();
    tracing_subscriber::registry()
        .with(of_worker.layer())
        .init();
    let (service, calls) = downstream().await;
    let worker =
        Worker::builder([&server.url]).handler("call", move |step| call(service.clone(), step));
    let worker = tokio::spawn(worker.build().unwrap().run());
    let mut client = tasker_worker::client::Client::connect(&server.url)
        .await
        .unwrap();
    register(&mut client, CALLS).await;
    // The client stands for another process, so its span has an exporter of its own.
    let of_client = Telemetry::to(&endpoint, "client").unwrap();
    let mut span = of_client.tracer().start("register a user");
    let mut request = tonic::Request::new(submission("t/calls", "{}"));
    let parent = telemetry::format(span.span_context());
    request
        .metadata_mut()
        .insert("traceparent", parent.parse().unwrap());
    let id = client
        .tasks
        .submit_task(request)
        .await
        .unwrap()
        .into_inner()
        .task_id;
    let task = finished(&mut client, &id).await;
    span.end();
    worker.abort();
    assert_eq!(
        server.terminate(),
        Some(0),
        "the server sends its last spans when it ends"
    );
    tokio::task::spawn_blocking(move || (of_client.end(), of_worker.end()))
        .await
        .unwrap();

    let all = collector.spans();
    let trace = parent.split('-').nth(1).unwrap();
    let spans: Vec<Span> = all.iter().filter(|s| s.trace == trace).cloned().collect();
    let root = one(&spans, "client", "register a user", "");
    let whole = one(&spans, "server", "t/calls", "");
    assert_eq!(
        (
            whole.parent.as_str(),
            whole.attributes["tasker.state"].as_str()
        ),
        (root.id.as_str(), "complete")
    );
    assert_eq!(
        whole.attributes["tasker.correlation_id"],
        task.task.as_ref().unwrap().correlation_id
    );
    let calls = calls.lock().unwrap().clone();
    assert_eq!(calls.len(), 2);
    for (attempt, outcome) in [("1", "retryable_error"), ("2", "succeeded")] {
        let tried = one(&spans, "server", "call", attempt);
        assert_eq!(
            (
                tried.parent.as_str(),
                tried.attributes["tasker.outcome"].as_str()
            ),
            (whole.id.as_str(), outcome)
        );
        assert_eq!(
            (tried.failed, tried.attributes["tasker.service"].as_str()),
            (attempt == "1", "downstream")
        );
        assert!(
            whole.start <= tried.start && tried.start < tried.end && tried.end <= whole.end,
            "{tried:?} {whole:?}"
        );
        let worked = one(&spans, "worker", "step", attempt);
        assert_eq!(worked.parent, tried.id);
        // The handler's call is a child of the worker's span.
        let call = &calls[attempt.parse::<usize>().unwrap() - 1];
        assert_eq!(call["traceparent"], format!("00-{trace}-{}-01", worked.id));
        assert_eq!(
            (&call["idempotency-key"], &call["x-correlation-id"]),
            (
                &format!("{id}/call")
                    .parse::<axum::http::HeaderValue>()
                    .unwrap(),
                &task
                    .task
                    .as_ref()
                    .unwrap()
                    .correlation_id
                    .parse::<axum::http::HeaderValue>()
                    .unwrap()
            )
        );
        // A transaction ended the attempt, in a trace of its own.
        let of: Vec<&Span> = all.iter().filter(|s| s.links.contains(&tried.id)).collect();
        assert!(
            of.len() == 1 && of[0].name == "settle transaction" && of[0].trace != trace,
            "{of:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn task_without_a_client_trace_starts_one_and_an_unsampled_one_has_none() {
    let (collector, endpoint) = Collector::start().await;
    let db = TestDb::new().await;
    let env = [("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", endpoint.as_str())];
    let mut server = ServerProcess::start_with(
        db.url(),
        &["--listen", "127.0.0.1:0", "--log", "info"],
        &env,
    );
    let mut client = tasker_worker::client::Client::connect(&server.url)
        .await
        .unwrap();
    register(&mut client, CALLS).await;
    let cancel = |id: &str| proto::CancelTaskRequest {
        task_id: id.into(),
        by: "me".into(),
        reason: "why".into(),
    };
    let id = client
        .tasks
        .submit_task(submission("t/calls", "{}"))
        .await
        .unwrap()
        .into_inner()
        .task_id;
    client.tasks.cancel_task(cancel(&id)).await.unwrap();
    let mut request = tonic::Request::new(submission("t/calls", "{}"));
    let unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    request
        .metadata_mut()
        .insert("traceparent", unsampled.parse().unwrap());
    let other = client
        .tasks
        .submit_task(request)
        .await
        .unwrap()
        .into_inner()
        .task_id;
    client.tasks.cancel_task(cancel(&other)).await.unwrap();
    assert_eq!(server.terminate(), Some(0));
    let tasks = collector.named("tasker", "t/calls");
    assert_eq!(tasks.len(), 1, "{:#?}", collector.spans());
    assert_eq!(
        (tasks[0].trace.clone(), tasks[0].parent.as_str()),
        (id.replace('-', ""), "")
    );
    assert_eq!(tasks[0].attributes["tasker.task_id"], id);
}

#[tokio::test]
async fn current_span_is_propagated() {
    let (_collector, endpoint) = Collector::start().await;
    let telemetry = Telemetry::to(&endpoint, "here").unwrap();
    assert_eq!(telemetry::traceparent(), None);
    let subscriber = tracing_subscriber::registry().with(telemetry.layer());
    let _default = tracing::subscriber::set_default(subscriber);
    let span = tracing::info_span!("outer");
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    telemetry::continue_in(&span, Some(parent));
    let handed = span.in_scope(telemetry::traceparent).unwrap();
    assert!(
        handed.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && handed != parent,
        "{handed}"
    );
    let context = telemetry::parse(&handed).unwrap();
    assert!(
        opentelemetry::Context::new()
            .with_remote_span_context(context)
            .has_active_span()
    );
}
