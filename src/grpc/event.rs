//! `tasker.v1.EventService`.

use std::{pin::Pin, time::Duration};

use futures_util::{Stream, stream};
use tonic::{Code, Request, Response, Status};

use super::{convert, error};
use crate::{
    domain::event::EventType,
    engine::{
        Engine,
        events::{
            filter::Filter,
            subscription::{Delivery, Start, SubscribeError, Subscription},
        },
    },
    proto::{
        self, SubscribeRequest,
        encoded::{SubscribeResponse, event_service_server::EventService},
    },
};

/// Bound on the types of one filter; a type may occur more than once.
const MAX_TYPES: usize = 100;
/// Retry delay for a server that has too many subscribers.
const FULL_RETRY: Duration = Duration::from_secs(5);

pub type EventStream = Pin<Box<dyn Stream<Item = Result<SubscribeResponse, Status>> + Send>>;

/// The service over an engine.
pub struct EventLog(pub Engine);

#[tonic::async_trait]
impl EventService for EventLog {
    type SubscribeStream = EventStream;

    async fn subscribe(
        &self,
        request: Request<SubscribeRequest>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let r = request.into_inner();
        let start = start(&r)?;
        let subscription = self
            .0
            .context
            .events
            .subscribe(start, filter(r)?)
            .await
            .map_err(refused)?;
        Ok(Response::new(Box::pin(stream(subscription))))
    }
}

fn start(r: &SubscribeRequest) -> Result<Start, Status> {
    let from = proto::StartFrom::try_from(r.start_from).map_err(|_| {
        error::invalid(
            "start_from",
            format!("{} is not a start: see StartFrom", r.start_from),
        )
    })?;
    match (r.cursor.as_str(), from) {
        ("", proto::StartFrom::Beginning) => Ok(Start::Beginning),
        ("", proto::StartFrom::Unspecified | proto::StartFrom::Now) => Ok(Start::Now),
        (cursor, proto::StartFrom::Unspecified) => Ok(Start::After(cursor.to_owned())),
        _ => Err(error::invalid(
            "start_from",
            "set beside `cursor`: expected only one of them",
        )),
    }
}

fn filter(r: SubscribeRequest) -> Result<Filter, Status> {
    for (field, text) in [
        ("namespace", &r.namespace),
        ("task_name", &r.task_name),
        ("service", &r.service),
        ("correlation_id", &r.correlation_id),
    ] {
        convert::name(field, text)?;
    }
    if r.types.len() > MAX_TYPES {
        return Err(error::invalid(
            "types",
            format!("{} types: expected at most {MAX_TYPES}", r.types.len()),
        ));
    }
    let set = |text: String| (!text.is_empty()).then_some(text);
    Ok(Filter {
        namespace: set(r.namespace),
        task_name: set(r.task_name),
        types: r
            .types
            .into_iter()
            .map(convert::event_type_from)
            .collect::<Result<Vec<EventType>, _>>()?,
        service: set(r.service),
        task_id: if r.task_id.is_empty() {
            None
        } else {
            Some(convert::task_id(&r.task_id)?)
        },
        correlation_id: set(r.correlation_id),
    })
}

/// Sends the cursor first, so that a subscriber without events can continue from it; then each
/// event, and an error at the end.
fn stream(
    subscription: Subscription,
) -> impl Stream<Item = Result<SubscribeResponse, Status>> + Send {
    // Boxed, as it is moved with each event.
    let mut subscription = Box::new(subscription);
    let first = subscription.place();
    stream::unfold(
        (Some(subscription), Some(first)),
        |(subscription, first)| async move {
            let mut subscription = subscription?;
            let delivery = match first {
                Some(first) => Ok(first),
                None => subscription.next().await,
            };
            match delivery {
                Ok(Delivery { event, cursor }) => Some((
                    Ok(SubscribeResponse { event, cursor }),
                    (Some(subscription), None),
                )),
                // Without a subscription the next poll ends the stream, so the error is its last
                // item.
                Err(error) => Some((Err(refused(error)), (None, None))),
            }
        },
    )
}

fn refused(error: SubscribeError) -> Status {
    match error {
        SubscribeError::TooMany => error::retry_later(
            Code::ResourceExhausted,
            "TOO_MANY_SUBSCRIBERS",
            error.to_string(),
            FULL_RETRY,
        ),
        SubscribeError::BadCursor => error::invalid("cursor", error.to_string()),
        SubscribeError::TooOld => error::status(
            Code::OutOfRange,
            "CURSOR_TOO_OLD",
            format!("{error}; start again without it, and expect missing events"),
        ),
        SubscribeError::Ahead => error::status(Code::OutOfRange, "CURSOR_AHEAD", error.to_string()),
        // The client continues with its cursor, at this server or at another one.
        SubscribeError::Stopping | SubscribeError::CutOff => error::unavailable(&error.to_string()),
        SubscribeError::Store(error) => error::store(&error),
    }
}
