//! An event in the form for its subscribers: the bytes of a `proto::Event`.

use std::time::Duration;

use prost::{
    Message as _,
    encoding::{WireType, encode_key, encode_varint},
};
use tokio_util::bytes::{BufMut as _, BytesMut};
use uuid::Uuid;

use super::convert::{event_type, outcome, timestamp};
use crate::{engine::NamedEvent, proto};

/// Appends the event. Texts are encoded from their places, without a copy into a message, which
/// would allocate a dozen times per event; so they follow the numbers, which is valid as fields
/// have no order on the wire.
pub fn encode(named: &NamedEvent, to: &mut BytesMut) {
    let event = &named.event;
    let ms = |time: Option<Duration>| {
        time.map(|time| i64::try_from(time.as_millis()).unwrap_or(i64::MAX))
    };
    let numbers = proto::Event {
        r#type: event
            .kind
            .map_or(proto::EventType::Unspecified, event_type)
            .into(),
        seq: event.seq,
        at: Some(timestamp(event.at)),
        attempt: event.attempt.unwrap_or_default(),
        outcome: event
            .outcome
            .map_or(proto::AttemptOutcome::Unspecified, outcome)
            .into(),
        charged: event.charged.unwrap_or_default(),
        run_ms: ms(named.run()),
        wait_ms: ms(named.wait()),
        next_attempt_at: event.next_attempt_at.map(timestamp),
        ..proto::Event::default()
    };
    // It fails only without space, and the buffer grows.
    let _ = numbers.encode(to);
    let step = named.step();
    let texts = [
        (4, named.namespace()),
        (5, named.task_name()),
        (6, named.version()),
        (8, named.correlation_id()),
        (9, step.map(|step| step.name.as_str())),
        (10, named.service()),
        (11, step.map(|step| step.handler.as_str())),
        (17, event.error_code.as_deref()),
        (18, event.error_message.as_deref()),
        (21, named.worker_name()),
        (22, event.detail.as_deref()),
        (23, event.actor.as_deref()),
    ];
    for (tag, text) in texts {
        put(tag, text.unwrap_or_default(), to);
    }
    for (tag, id) in [(7, event.task_id), (20, event.worker_id)] {
        // Without the formatter, which costs several times as much.
        let mut buffer = Uuid::encode_buffer();
        put(
            tag,
            id.map_or("", |id| id.hyphenated().encode_lower(&mut buffer)),
            to,
        );
    }
}

/// A text field. An empty text is omitted.
fn put(tag: u32, text: &str, to: &mut BytesMut) {
    if !text.is_empty() {
        encode_key(tag, WireType::LengthDelimited, to);
        encode_varint(text.len() as u64, to);
        to.put_slice(text.as_bytes());
    }
}
