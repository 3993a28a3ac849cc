//! Plain HTTP on the same port: whether the process lives and whether it can serve.

use axum::{Router, extract::State, http::StatusCode, routing::get};

use crate::engine::health::HealthCell;

/// `/livez` answers as long as the process does; `/readyz` says what keeps the server from serving.
pub fn routes(health: HealthCell) -> Router {
    Router::new().route("/livez", get(|| async { "ok\n" })).route("/readyz", get(ready)).with_state(health)
}

async fn ready(State(health): State<HealthCell>) -> (StatusCode, &'static str) {
    let now = health.now();
    match (now.draining, now.database_away) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "draining: the server is about to end\n"),
        (_, true) => (StatusCode::SERVICE_UNAVAILABLE, "database: does not answer\n"),
        _ => (StatusCode::OK, "ok\n"),
    }
}
