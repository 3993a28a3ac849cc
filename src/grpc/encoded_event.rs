//! An event in the form for its subscribers: the bytes of a `proto::Event`.

use std::time::Duration;

use prost::Message as _;
use tokio_util::bytes::BytesMut;
use uuid::Uuid;

use super::convert::{event_type, outcome, timestamp};
use crate::{engine::NamedEvent, proto};

/// Appends the event. It is encoded once for all subscribers, so the copies of its texts cost
/// little.
pub fn encode(named: &NamedEvent, to: &mut BytesMut) {
    // It fails only without space, and the buffer grows.
    let _ = message(named).encode(to);
}

fn message(named: &NamedEvent) -> proto::Event {
    let event = &named.event;
    let step = named.step();
    proto::Event {
        r#type: event
            .kind
            .map_or(proto::EventType::Unspecified, event_type)
            .into(),
        seq: event.seq,
        at: Some(timestamp(event.at)),
        namespace: text(named.namespace()),
        task_name: text(named.task_name()),
        version: text(named.version()),
        task_id: id(event.task_id),
        correlation_id: text(named.correlation_id()),
        step: text(step.map(|step| step.name.as_str())),
        service: text(named.service()),
        handler: text(step.map(|step| step.handler.as_str())),
        attempt: event.attempt.unwrap_or_default(),
        outcome: event
            .outcome
            .map_or(proto::AttemptOutcome::Unspecified, outcome)
            .into(),
        charged: event.charged.unwrap_or_default(),
        run_ms: milliseconds(named.run()),
        wait_ms: milliseconds(named.wait()),
        error_code: text(event.error_code.as_deref()),
        error_message: text(event.error_message.as_deref()),
        next_attempt_at: event.next_attempt_at.map(timestamp),
        worker_id: id(event.worker_id),
        worker_name: text(named.worker_name()),
        detail: text(event.detail.as_deref()),
        actor: text(event.actor.as_deref()),
    }
}

fn text(text: Option<&str>) -> String {
    text.unwrap_or_default().to_owned()
}

fn id(id: Option<Uuid>) -> String {
    // Without the formatter, which costs several times as much.
    let mut buffer = Uuid::encode_buffer();
    id.map_or_else(String::new, |id| {
        id.hyphenated().encode_lower(&mut buffer).to_owned()
    })
}

/// None beyond the range of the protocol, which is longer than the time since 1970.
fn milliseconds(time: Option<Duration>) -> Option<i64> {
    i64::try_from(time?.as_millis()).ok()
}
