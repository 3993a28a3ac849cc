//! `tasker.v1.EventService`.

use std::pin::Pin;

use futures_util::{Stream, stream};
use tonic::{Code, Request, Response, Status};

use super::{convert, error};
use crate::{
    domain::event::EventType,
    engine::{Delivery, Engine, EventFilter, SubscribeError, Subscription, SubscriptionStart},
    proto::{
        self, SubscribeRequest,
        encoded::{SubscribeResponse, event_service_server::EventService},
    },
};

/// Bound on the types of one filter; a type may occur more than once.
const MAX_TYPES: usize = 100;

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
        let subscription = self.0.subscribe(start, filter(r)?).await.map_err(refused)?;
        Ok(Response::new(Box::pin(stream(subscription))))
    }
}

fn start(r: &SubscribeRequest) -> Result<SubscriptionStart, Status> {
    let from = proto::StartFrom::try_from(r.start_from).map_err(|_| {
        error::invalid(
            "start_from",
            format!("{} is not a start: see StartFrom", r.start_from),
        )
    })?;
    match (r.cursor.as_str(), from) {
        ("", proto::StartFrom::Beginning) => Ok(SubscriptionStart::Beginning),
        ("", proto::StartFrom::Unspecified | proto::StartFrom::Now) => Ok(SubscriptionStart::Now),
        (cursor, proto::StartFrom::Unspecified) => Ok(SubscriptionStart::After(cursor.to_owned())),
        _ => Err(error::invalid(
            "start_from",
            "set beside `cursor`: expected only one of them",
        )),
    }
}

fn filter(r: SubscribeRequest) -> Result<EventFilter, Status> {
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
    Ok(EventFilter {
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
            error::FULL_RETRY,
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
