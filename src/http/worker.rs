//! `/tasker/workers`.

use axum::http::Method;

use super::route::{Route, route};
use crate::{grpc::worker::Workers, proto::worker_service_server::WorkerService as _};

pub fn routes() -> Vec<Route> {
    vec![route(Method::GET, "/tasker/workers", "WorkerService/ListWorkers", |e, r| async move {
        Workers(e).list_workers(r).await
    })]
}
