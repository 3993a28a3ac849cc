//! Whether the process is alive, and whether it can serve.

use axum::{extract::State, http::StatusCode};

use crate::engine::Engine;

/// Answers as long as the process is alive.
pub async fn livez() -> &'static str {
    "ok\n"
}

/// Reports why the server cannot serve.
pub async fn readyz(State(engine): State<Engine>) -> (StatusCode, &'static str) {
    let now = engine.health().now();
    match (now.draining, now.database_away) {
        (true, _) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "draining: the server is shutting down\n",
        ),
        (_, true) if now.read_only => (StatusCode::SERVICE_UNAVAILABLE, "database: read-only\n"),
        (_, true) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "database: does not answer\n",
        ),
        _ if now.stalled.is_some() => (
            StatusCode::SERVICE_UNAVAILABLE,
            "stalled: a loop makes no progress\n",
        ),
        _ if now.unjudging => (
            StatusCode::SERVICE_UNAVAILABLE,
            "stalled: every evaluation thread is stuck\n",
        ),
        _ => (StatusCode::OK, "ok\n"),
    }
}
