//! One registered stream to one server.

use std::time::Duration;

use http::Uri;
use thiserror::Error;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming, transport::Endpoint};

use crate::proto::{
    Register, Registered, WorkRequest, WorkResponse, work_request, work_response,
    worker_service_client::WorkerServiceClient,
};

/// How long a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a server may take from the first packet to `registered`.
const OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// Interval of keep-alive pings to a silent peer, and the time limit of an answer.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the server may take to close its side after the worker closed its own.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Messages queued for the network; further ones wait at their source.
const OUTBOUND_MESSAGES: usize = 32;
/// Most bytes of an assignment. The registration names this bound, and the server sends no larger
/// one.
pub(crate) const MAX_ASSIGNMENT_BYTES: i32 = 16 << 20;

/// Used when a server specifies neither a heartbeat interval nor a lease: a third of its usual
/// lease.
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(3);
const MIN_HEARTBEAT: Duration = Duration::from_millis(10);
/// The longest heartbeat interval; a longer one that a server asks for is shortened to it.
const MAX_HEARTBEAT: Duration = Duration::from_secs(3_600);

/// A stream on which the server has answered `registered`.
pub(crate) struct Connection {
    pub worker_id: String,
    pub heartbeat_interval: Duration,
    pub kept_leases: Vec<String>,
    pub outbound: mpsc::Sender<WorkRequest>,
    pub inbound: Streaming<WorkResponse>,
}

/// Why a stream could not be opened.
#[derive(Debug, Error)]
pub(crate) enum OpenError {
    #[error("{0}")]
    Unreachable(String),
    /// The server rejects this registration; a retry is useless.
    #[error("{0}")]
    Refused(Status),
}

impl Connection {
    /// Connects and registers.
    pub async fn open(address: Uri, register: Register) -> Result<Self, OpenError> {
        // One limit for all phases: a server may accept the connection and never answer.
        match timeout(OPEN_TIMEOUT, Self::try_open(address, register)).await {
            Ok(opened) => opened,
            Err(_) => Err(OpenError::Unreachable(format!(
                "no answer within {OPEN_TIMEOUT:?}"
            ))),
        }
    }

    /// Closes the worker's side of the stream, and waits a moment for the server to close its own.
    pub async fn close(self) {
        let Self {
            outbound,
            mut inbound,
            ..
        } = self;
        // Ends the request stream; the queued messages still go out.
        drop(outbound);
        // Dropping the response at once would reset the stream, and could lose the last results. A
        // time-out is no error here: the worker ends anyway.
        let _ = timeout(CLOSE_TIMEOUT, async {
            while let Ok(Some(_)) = inbound.message().await {}
        })
        .await;
    }

    async fn try_open(address: Uri, register: Register) -> Result<Self, OpenError> {
        let channel = endpoint(address)
            .connect()
            .await
            .map_err(|error| connect_error(&error))?;
        let (outbound, requests) = mpsc::channel(OUTBOUND_MESSAGES);
        // The new channel is empty, so there is room.
        let _ = outbound.try_send(request(work_request::Message::Register(register)));
        let mut inbound = WorkerServiceClient::new(channel)
            .max_decoding_message_size(MAX_ASSIGNMENT_BYTES as usize)
            .work(ReceiverStream::new(requests))
            .await
            .map_err(not_registered)?
            .into_inner();
        let first = inbound.message().await.map_err(not_registered)?;
        match first.and_then(|response| response.message) {
            Some(work_response::Message::Registered(registered)) => Ok(Self {
                heartbeat_interval: heartbeat_interval(&registered),
                worker_id: registered.worker_id,
                kept_leases: registered.kept_leases,
                outbound,
                inbound,
            }),
            // Not fatal: another address may belong to a working server.
            _ => Err(OpenError::Unreachable(
                "its first message is not `registered`".into(),
            )),
        }
    }
}

pub(crate) fn request(message: work_request::Message) -> WorkRequest {
    WorkRequest {
        message: Some(message),
    }
}

fn endpoint(address: Uri) -> Endpoint {
    Endpoint::from(address)
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
}

fn not_registered(status: Status) -> OpenError {
    match status.code() {
        // Only these two concern the registration itself; any other cause may pass.
        Code::FailedPrecondition | Code::InvalidArgument => OpenError::Refused(status),
        _ => OpenError::Unreachable(describe(&status)),
    }
}

/// A status in one line.
pub(crate) fn describe(status: &Status) -> String {
    format!("{}: {}", status.code(), status.message())
}

/// tonic's error states only "transport error"; the innermost cause is the reason.
fn connect_error(error: &dyn std::error::Error) -> OpenError {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    OpenError::Unreachable(cause.to_string())
}

fn heartbeat_interval(registered: &Registered) -> Duration {
    let told = registered
        .heartbeat_interval
        .and_then(|told| Duration::try_from(told).ok());
    let third = registered
        .lease_duration
        .and_then(|lease| Duration::try_from(lease).ok());
    // Bounded on both sides: zero would spin the loop, and a huge interval would overflow the
    // clock.
    told.or(third.map(|lease| lease / 3))
        .unwrap_or(DEFAULT_HEARTBEAT)
        .clamp(MIN_HEARTBEAT, MAX_HEARTBEAT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeat_interval_is_bounded_for_any_lease() {
        let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        for (lease_duration, heartbeat_interval, expected) in [
            (seconds(10), seconds(4), Duration::from_secs(4)),
            (seconds(9), None, Duration::from_secs(3)),
            (None, seconds(3_600), MAX_HEARTBEAT),
            (None, seconds(3_601), MAX_HEARTBEAT),
            (None, seconds(315_576_000_000), MAX_HEARTBEAT),
            (seconds(i64::MAX), None, MAX_HEARTBEAT),
            (None, None, DEFAULT_HEARTBEAT),
            (None, seconds(0), MIN_HEARTBEAT),
            (None, seconds(-1), DEFAULT_HEARTBEAT),
        ] {
            let registered = Registered {
                lease_duration,
                heartbeat_interval,
                ..Registered::default()
            };
            assert_eq!(super::heartbeat_interval(&registered), expected);
        }
    }
}
