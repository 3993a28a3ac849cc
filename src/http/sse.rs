//! Server-sent events: a stream of the protocol for browsers and for curl. The place in the stream is the id of each event, so
//! whoever reconnects with `Last-Event-ID`, as browsers do by themselves, misses nothing and sees nothing twice.

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

/// What a browser says when it comes back.
const LAST_EVENT_ID: &str = "last-event-id";
/// Something is sent at least this often, so that nobody in between takes the connection for dead.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Goes on where the client was, whatever the URL says: a browser comes back with the same one.
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

/// One without an event is only a place: browsers remember its id and tell nobody.
fn event(message: &DynamicMessage) -> Event {
    let cursor = message.get_field_by_name("cursor");
    let sent = Event::default().id(cursor.as_ref().and_then(|c| c.as_str()).unwrap_or_default());
    let told = message
        .get_field_by_name("event")
        .filter(|_| message.has_field_by_name("event"));
    match told.as_ref().and_then(|event| event.as_message()) {
        Some(event) => sent.data(json::text(event)),
        None => sent,
    }
}

fn failed(status: &Status) -> Event {
    Event::default()
        .event("error")
        .data(serde_json::to_string(&Problem::of(status, &[])).unwrap_or_default())
}
