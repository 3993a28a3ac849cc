//! The answers of the port while the server starts: `/livez` answers at once, and any other request
//! waits a moment for the start. If the start takes longer, `/readyz` and the health rpcs report
//! it, and everything else gets UNAVAILABLE (`STARTING`) with a retry delay.

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Router,
    extract::Request,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tower::ServiceExt as _;

use super::{LIVEZ, READYZ, health, problem::Problem};
use crate::grpc::{error, fallback::is_grpc};

/// How long a request waits for the start. Most starts take less.
const PATIENCE: Duration = Duration::from_secs(1);
/// The retry delay.
const COME_BACK: Duration = Duration::from_secs(1);
/// The rpcs of the standard health protocol.
const HEALTH: &str = "/grpc.health.v1.Health/";
const WHY: &str = "the server is starting: it loads the registered templates";

/// The router of the port, during and after the start.
#[derive(Clone)]
pub struct Starting {
    /// The rpcs of health, which answer NOT_SERVING until the server serves.
    health: Router,
    started: Arc<OnceLock<Router>>,
    opened: CancellationToken,
}

impl Starting {
    pub fn new(health: Router) -> Self {
        Self {
            health,
            started: Arc::default(),
            opened: CancellationToken::new(),
        }
    }

    /// From now on `all` answers.
    pub fn open(&self, all: Router) {
        if self.started.set(all).is_err() {
            tracing::debug!("the server was started twice");
        }
        self.opened.cancel();
    }

    /// The router for the port.
    pub fn routes(&self) -> Router {
        let starting = self.clone();
        Router::new().fallback(move |request: Request| {
            let starting = starting.clone();
            async move { starting.answer(request).await }
        })
    }

    async fn answer(&self, request: Request) -> Response {
        if self.started.get().is_none() {
            // An orchestrator must not kill a process because its start takes long.
            if request.uri().path() == LIVEZ.path {
                return health::livez().await.into_response();
            }
            // A start is usually shorter than this wait, so most early requests see no error.
            let _ = tokio::time::timeout(PATIENCE, self.opened.cancelled()).await;
        }
        let Some(all) = self.started.get() else {
            return self.not_yet(request).await;
        };
        // `oneshot` consumes the router; a clone shares the routes.
        let Ok::<_, Infallible>(response) = all.clone().oneshot(request).await;
        response
    }

    async fn not_yet(&self, request: Request) -> Response {
        let path = request.uri().path();
        if path.starts_with(HEALTH) {
            let Ok::<_, Infallible>(response) = self.health.clone().oneshot(request).await;
            return response;
        }
        // Load balancers expect the plain text of `/readyz` and not a problem document.
        if path == READYZ.path {
            return (
                StatusCode::SERVICE_UNAVAILABLE,
                format!("starting: {WHY}\n"),
            )
                .into_response();
        }
        if is_grpc(&request) {
            let status = error::retry_later(Code::Unavailable, "STARTING", WHY, COME_BACK);
            return status.into_http::<axum::body::Body>();
        }
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "STARTING", WHY)
            .retry_after(COME_BACK)
            .into_response()
    }
}
