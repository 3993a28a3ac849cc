//! Server-sent events: a stream of the protocol for browsers and for curl. The id of each event is
//! the cursor after it, so a client that reconnects with `Last-Event-ID`, as browsers do by
//! themselves, misses no event and gets none twice.

use std::{convert::Infallible, time::Duration};

use axum::{
    http::{HeaderMap, StatusCode},
    response::{
        IntoResponse as _, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::{Stream, StreamExt as _};
use prost_reflect::{DynamicMessage, Value};
use tonic::Status;

use super::problem::Problem;
use crate::json;

/// The header that a reconnecting browser sends.
const LAST_EVENT_ID: &str = "last-event-id";
/// Interval between signs of life, so that no proxy takes the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Continues at the client's cursor, whatever the URL specifies: a reconnecting browser repeats its
/// URL.
pub fn resume(message: &mut DynamicMessage, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(id) = headers.get(LAST_EVENT_ID).filter(|id| !id.is_empty()) else {
        return Ok(());
    };
    let text = id.to_str().map_err(|_| {
        Problem::new(
            StatusCode::BAD_REQUEST,
            "INVALID_FIELDS",
            "Last-Event-ID: expected the id of an event, unchanged",
        )
    })?;
    // The rpc refuses a start beside a cursor.
    message.clear_field_by_name("start_from");
    message.set_field_by_name("cursor", Value::String(text.to_owned()));
    Ok(())
}

pub fn response(
    messages: impl Stream<Item = Result<DynamicMessage, Status>> + Send + 'static,
) -> Response {
    let events = messages.map(|message| {
        Ok::<_, Infallible>(message.map_or_else(|status| failed(&status), |m| event(&m)))
    });
    Sse::new(events)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response()
}

/// A message without an event is only a cursor: browsers store its id and raise no event.
fn event(message: &DynamicMessage) -> Event {
    let cursor = message.get_field_by_name("cursor");
    let sent = Event::default().id(cursor.as_ref().and_then(|c| c.as_str()).unwrap_or_default());
    // An unset message field reads as an empty message, so its presence is checked.
    let told = message
        .get_field_by_name("event")
        .filter(|_| message.has_field_by_name("event"));
    match told.as_ref().and_then(|event| event.as_message()) {
        Some(event) => sent.data(json::text(event)),
        None => sent,
    }
}

fn failed(status: &Status) -> Event {
    // The status of HTTP was sent before the first event, so an error is an event of its own.
    Event::default()
        .event("error")
        .data(serde_json::to_string(&Problem::of(status, &[])).unwrap_or_default())
}
