//! HTTP on the same port: the protocol as JSON under `/tasker`, its OpenAPI document, and the pages
//! for operators.
//!
//! The routes of a noun are in its own file, one line for each: method, path, rpc, and the function
//! that gRPC calls too. Everything else about a route follows from the rpc's descriptor in the
//! protocol.

pub mod accept;
mod analytics;
mod body;
mod circuit;
pub mod connection_limit;
pub mod cors;
mod event;
pub mod first_byte_timeout;
pub mod guard;
mod health;
pub mod host;
mod metrics;
mod openapi;
mod pack;
mod problem;
mod read;
mod route;
mod sse;
pub mod starting;
mod task;
mod template;
mod worker;

use axum::{
    Router,
    extract::Request,
    http::{StatusCode, header},
    middleware::from_fn,
    response::{IntoResponse as _, Response},
    routing::{MethodRouter, get},
};

use self::{problem::Problem, route::Route};
use crate::{engine::Engine, grpc::room::Room};

/// A page for operators or programs, outside the JSON of the protocol.
struct Page {
    path: &'static str,
    name: &'static str,
    summary: &'static str,
    media: &'static str,
    answers: &'static [(StatusCode, &'static str)],
}

impl Page {
    const fn text(
        path: &'static str,
        name: &'static str,
        summary: &'static str,
        answers: &'static [(StatusCode, &'static str)],
    ) -> Self {
        Self {
            path,
            name,
            summary,
            media: "text/plain",
            answers,
        }
    }
}

const OPENAPI: Page = Page {
    media: "application/json",
    ..Page::text(
        "/tasker/openapi.json",
        "OpenApi",
        "This document",
        &[(StatusCode::OK, "OpenAPI 3.1.")],
    )
};
const LIVEZ: Page = Page::text(
    "/livez",
    "Live",
    "Answers as long as the process does",
    &[(StatusCode::OK, "It lives.")],
);
const READYZ: Page = Page::text(
    "/readyz",
    "Ready",
    "Whether the server can serve, or the reason why not",
    &[
        (StatusCode::OK, "It can."),
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "It cannot; the text states the reason.",
        ),
    ],
);
const METRICS: Page = Page::text(
    "/metrics",
    "Metrics",
    "The metrics of this server for Prometheus; docs/metrics.md explains them",
    &[(StatusCode::OK, "Prometheus text format 0.0.4.")],
);

fn all_routes() -> Vec<Route> {
    [
        task::routes(),
        template::routes(),
        worker::routes(),
        circuit::routes(),
        event::routes(),
        analytics::routes(),
    ]
    .concat()
}

/// All routes of this port except gRPC.
pub fn routes(engine: &Engine, room: &Room) -> Router {
    let routes = all_routes();
    // Built once: it depends only on the program.
    let document = openapi::document(&routes, &[OPENAPI, LIVEZ, READYZ, METRICS]).to_string();
    let mut router: Router<Engine> = Router::new()
        .route(
            OPENAPI.path,
            get(move || async move { ([(header::CONTENT_TYPE, "application/json")], document) }),
        )
        .route(LIVEZ.path, get(health::livez))
        .route(READYZ.path, get(health::readyz))
        .route(METRICS.path, get(metrics::page));
    for route in routes {
        let served: MethodRouter<Engine> = route.serve(engine, room).with_state(());
        router = router.route(route.path, served);
    }
    // The layer comes last, since it covers only the routes that were added before it.
    router
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn(pack::packed))
        .with_state(engine.clone())
}

/// The answer to a path without a route.
pub fn nothing(request: &Request) -> Response {
    let detail = format!(
        "{:.200} does not exist: this port serves gRPC, HTTP/JSON as described by /tasker/openapi.json, /livez, /readyz and /metrics",
        request.uri().path()
    );
    Problem::new(StatusCode::NOT_FOUND, "NO_SUCH_PATH", detail).into_response()
}

async fn wrong_method(request: Request) -> Response {
    let detail = format!(
        "{} is not allowed for this path; see the header `allow`",
        request.method()
    );
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", detail).into_response()
}
