//! `/tasker/workers`.

use super::route::{Route, route};
use crate::{grpc::worker::Workers, proto::worker_service_server::WorkerService as _};

pub fn routes() -> Vec<Route> {
    vec![route!(GET "/tasker/workers" => Workers.list_workers, "WorkerService/ListWorkers")]
}
