//! `/tasker/events`.

use super::route::{Route, stream};
use crate::{grpc::event::EventLog, proto::encoded::event_service_server::EventService as _};

pub fn routes() -> Vec<Route> {
    vec![stream(
        "/tasker/events",
        "EventService/Subscribe",
        |e, r| async move { EventLog(e).subscribe(r).await },
    )]
}
