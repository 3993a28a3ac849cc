//! The server: one port for gRPC, reflection, health and HTTP over one engine, and an orderly
//! shutdown.

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::server::Server};
use tonic_health::server::HealthReporter;

pub use crate::http::{accept::raise_file_limit, cors::Origin, host::AllowedHost};
use crate::{
    engine::{Engine, EngineConfig, HealthCell, Metrics},
    grpc::{self, MAX_MESSAGE_BYTES, room::Room},
    http::{self, accept, connection_limit::Limits, guard::Guard, starting::Starting},
    proto::{
        self, analytics_service_server::AnalyticsServiceServer,
        circuit_service_server::CircuitServiceServer,
        encoded::event_service_server::EventServiceServer, task_service_server::TaskServiceServer,
        template_service_server::TemplateServiceServer, worker_service_server::WorkerServiceServer,
    },
    store::{Db, StoreError},
    telemetry::Tracer,
};

/// Names of the services for the standard health protocol.
const SERVICES: [&str; 6] = [
    "tasker.v1.TaskService",
    "tasker.v1.TemplateService",
    "tasker.v1.WorkerService",
    "tasker.v1.CircuitService",
    "tasker.v1.EventService",
    "tasker.v1.AnalyticsService",
];
/// How long finished tasks are kept by default.
pub const RETAIN: Duration = Duration::from_secs(30 * 86_400);
/// How long streams get to end after the workers were drained.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);
/// The most concurrent calls on an HTTP/2 connection; a client delays further ones.
const MAX_STREAMS: u32 = 4_096;
/// The most bytes of a request's headers over HTTP/2, as that protocol counts them.
const MAX_HEADER_BYTES: u32 = 16 << 10;
/// The most calls that a client may cancel before the server has processed them; a client that
/// exceeds it ("rapid reset") loses the connection.
const MAX_PENDING_RESETS: usize = 100;
/// The most calls that the server resets because of errors in them, before it closes the
/// connection.
const MAX_OWN_RESETS: usize = 1_024;

/// The settings of a server.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// How long a worker may be silent before its steps are given to others; at least a second.
    pub lease: Duration,
    /// How long a shutdown waits for running steps.
    pub drain: Duration,
    /// Origins whose web pages may call this server; empty for none.
    pub cors_origins: Vec<Origin>,
    /// Host names by which this server may be called, besides addresses, `localhost` and names
    /// without a dot.
    pub allowed_hosts: Vec<AllowedHost>,
    /// The tracer that exports spans; `None` for no export.
    pub tracer: Option<Tracer>,
    /// How long finished tasks and their history are kept; `None` for ever.
    pub retain: Option<Duration>,
    /// Which of their `environments` templates are registered with; empty for none.
    pub environment: String,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(10),
            drain: Duration::from_secs(30),
            cors_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            tracer: None,
            retain: Some(RETAIN),
            environment: String::new(),
        }
    }
}

/// Why a server did not start or ended early.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the listener failed: {0}")]
    Listener(#[from] std::io::Error),
    #[error("the server failed: {0}")]
    Transport(#[from] tonic::transport::Error),
    #[error("a loop of the engine failed; see the log")]
    Engine,
}

/// Serves until `shutdown` resolves, then drains: the server notifies the workers, still accepts
/// results in flight, and closes the streams after at most `config.drain`.
pub async fn run(
    listener: TcpListener,
    db: Db,
    config: ServerConfig,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServerError> {
    let address = listener.local_addr()?;
    let metrics = Arc::<Metrics>::default();
    let mut shutdown = Box::pin(shutdown);
    let (reporter, health) = tonic_health::server::health_reporter();
    // The empty name stands for the whole server in the health protocol.
    for service in std::iter::once("").chain(SERVICES) {
        reporter
            .set_service_status(service, tonic_health::ServingStatus::NotServing)
            .await;
    }
    let health = Routes::new(health);
    let starting = Starting::new(health.clone().into_axum_router());
    let closing = CancellationToken::new();
    // The port is served during the start too: a probe gets an answer, and a client a clear error,
    // while the engine loads its templates.
    let mut server = Box::pin(serve(listener, &starting, &metrics, closing.clone()));
    let settings = EngineConfig {
        address: address.to_string(),
        lease: config.lease,
        tracer: config.tracer,
        retain: config.retain,
        environment: config.environment,
        metrics: Arc::clone(&metrics),
        encode_event: grpc::encoded_event::encode,
    };
    // Until the engine runs no worker and no task depends on this server, so it ends without a
    // drain.
    let engine = tokio::select! {
        engine = Engine::start(db, settings) => engine?,
        result = &mut server => return Ok(result?),
        () = &mut shutdown => return Ok(()),
    };
    // The health follows the engine before the routes open, so that no call succeeds while the
    // server still reports NOT_SERVING.
    let mut reports = JoinSet::new();
    reports.spawn(report(reporter, engine.health().clone()));
    let guard = Guard {
        hosts: config.allowed_hosts,
        origins: config.cors_origins,
    };
    starting.open(routes(&engine, health, guard));
    let drain = {
        let engine = engine.clone();
        async move {
            shutdown.await;
            tracing::info!(grace = ?config.drain, "draining");
            // The order matters: results of running steps need the loops, so these stop after the
            // drain; the loops store and acknowledge what is queued, so the streams close after
            // them; the port closes last.
            engine.drain(config.drain).await;
            engine.stop().await;
            engine.close().await;
            closing.cancel();
            // Streams that do not end by themselves must not keep the process alive.
            tokio::time::sleep(CLOSE_TIMEOUT).await;
        }
    };
    tokio::select! {
        result = &mut server => result?,
        () = drain => tracing::warn!("some connections did not close in time"),
        () = engine.failed() => return Err(ServerError::Engine),
    }
    engine.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// Serves the port until `closing` is cancelled.
fn serve(
    listener: TcpListener,
    starting: &Starting,
    metrics: &Metrics,
    closing: CancellationToken,
) -> impl Future<Output = Result<(), tonic::transport::Error>> + Send + use<> {
    // HTTP/1 is for JSON and gRPC-Web. The pings end a connection within 30 s after its peer
    // vanished. A connection's window is four times a stream's, so that one large upload does not
    // stall the others.
    Server::builder()
        .accept_http1(true)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(MAX_OWN_RESETS))
        .add_routes(Routes::from(starting.routes()))
        .serve_with_incoming_shutdown(
            accept::connections(listener, Limits::of_process(), Arc::clone(&metrics.edge)),
            closing.cancelled_owned(),
        )
}

fn routes(engine: &Engine, health: Routes, guard: Guard) -> Router {
    // A closure, since each of the two builds consumes a builder.
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            // So that a tool that reads an error's details can show them.
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
            // Each version by itself would list only itself.
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(
                tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
            )
            .include_reflection_service(false)
    };
    let mut routes = health
        .add_service(
            EventServiceServer::new(grpc::event::EventLog(engine.clone()))
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            TaskServiceServer::new(grpc::task::Tasks(engine.clone()))
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            TemplateServiceServer::new(grpc::template::Templates(engine.clone()))
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            WorkerServiceServer::new(grpc::worker::Workers(engine.clone()))
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            AnalyticsServiceServer::new(grpc::analytics::Analytics(engine.clone()))
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(
            CircuitServiceServer::new(grpc::circuit::Circuits(engine.clone()))
                .max_decoding_message_size(MAX_MESSAGE_BYTES),
        );
    // The descriptors are built in and thus readable; if not, the server still runs, without
    // reflection.
    match (reflection().build_v1(), reflection().build_v1alpha()) {
        (Ok(v1), Ok(v1alpha)) => routes = routes.add_service(v1).add_service(v1alpha),
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(%error, "server reflection is not available");
        }
    }
    // One account for the bodies of gRPC and HTTP, since they share the memory.
    let room = Room::new(Arc::clone(&engine.metrics().edge));
    let rpcs = grpc::fallback::guarded(routes.into_axum_router(), room.clone());
    let all = rpcs.fallback(nothing).merge(http::routes(engine, &room));
    // The guard is the outermost layer: a foreign page is refused before CORS answers its
    // preflight.
    let all = http::cors::allow(all, &guard.origins);
    http::guard::guarded(all, guard, Arc::clone(&engine.metrics().edge))
}

async fn nothing(request: axum::extract::Request) -> axum::response::Response {
    match grpc::fallback::is_grpc(&request) {
        true => grpc::fallback::no_rpc(request.uri().path()),
        false => http::nothing(&request),
    }
}

/// Keeps the standard health service in step with the engine's health.
async fn report(reporter: HealthReporter, health: HealthCell) {
    let mut changes = health.subscribe();
    loop {
        // Marked as seen before the report, so that a change during the report wakes the loop
        // again.
        let status = match changes.borrow_and_update().is_serving() {
            true => tonic_health::ServingStatus::Serving,
            false => tonic_health::ServingStatus::NotServing,
        };
        for service in std::iter::once("").chain(SERVICES) {
            reporter.set_service_status(service, status).await;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Binds the address. The error names the address and the next step.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| {
        format!("cannot listen on {address}: {error}; choose another one with --listen")
    })
}
