//! `/tasker/workers`.

use super::route::{Route, get};
use crate::{grpc::worker::Workers, proto::worker_service_server::WorkerService as _};

pub fn routes() -> Vec<Route> {
    vec![get("/tasker/workers", "WorkerService/ListWorkers", |e, r| async move { Workers(e).list_workers(r).await })]
}
