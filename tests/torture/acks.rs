//! The acknowledgements of the servers, taken from the log events of the worker SDK.

use std::{fmt, sync::Arc};

use tasker::proto::ResultStatus;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::layer::{Context, Layer};

use crate::ledger::{Ack, Ledger, Line};

/// The log target under which the SDK reports `acknowledged`.
const TARGET: &str = "tasker_worker::link";

/// Writes each acknowledgement into the ledger.
pub struct Acks(pub Arc<Ledger>);

impl<S: Subscriber> Layer<S> for Acks {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() != TARGET {
            return;
        }
        let mut found = Found::default();
        event.record(&mut found);
        if let (true, Some(lease), Some(status)) = (found.is_ack, found.lease, found.status) {
            let accepted = status == ResultStatus::Accepted.as_str_name();
            self.0.write(&Line::Ack(Ack { lease, accepted }));
        }
    }
}

#[derive(Default)]
struct Found {
    is_ack: bool,
    lease: Option<String>,
    status: Option<String>,
}

impl Visit for Found {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "lease" => self.lease = Some(value.to_owned()),
            "status" => self.status = Some(value.to_owned()),
            _ => {}
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.is_ack = format!("{value:?}") == "acknowledged";
        }
    }
}
