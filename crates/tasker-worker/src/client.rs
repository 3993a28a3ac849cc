//! A typed client of the control plane: one connection, and each service on it.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use tasker_worker::{client::Client, proto::SubmitTaskRequest};
//!
//! let mut client = Client::connect("http://127.0.0.1:7233").await?;
//! let submitted = client
//!     .tasks
//!     .submit_task(SubmitTaskRequest {
//!         namespace: "user_management".into(),
//!         task_name: "user_registration".into(),
//!         context_json: r#"{"email": "a@example.org", "name": "A"}"#.into(),
//!         ..Default::default()
//!     })
//!     .await?
//!     .into_inner();
//! println!("{}", submitted.task_id);
//! # Ok(())
//! # }
//! ```

use std::time::Duration;

use tonic::transport::{Channel, Endpoint, Uri};

use crate::proto::{
    analytics_service_client::AnalyticsServiceClient, circuit_service_client::CircuitServiceClient,
    event_service_client::EventServiceClient, task_service_client::TaskServiceClient,
    template_service_client::TemplateServiceClient, worker_service_client::WorkerServiceClient,
};

/// The largest message that a client sends or accepts.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// How long a connection may take to come up.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the server may take to begin its answer. A stream may last for any time once it has
/// begun.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection is pinged this often, also when idle, and is given up when a ping stays unanswered
/// for as long again.
pub const KEEPALIVE: Duration = Duration::from_secs(10);

/// One connection to a server. Clones share it, and it reconnects by itself.
#[derive(Debug, Clone)]
pub struct Client {
    /// Submits tasks, reads, watches, and cancels them.
    pub tasks: TaskServiceClient<Channel>,
    /// Registers templates and reads them.
    pub templates: TemplateServiceClient<Channel>,
    /// Subscribes to the events.
    pub events: EventServiceClient<Channel>,
    /// Lists the connected workers; `Work` is better left to the worker SDK.
    pub workers: WorkerServiceClient<Channel>,
    /// Reads circuits and limits, and changes them.
    pub circuits: CircuitServiceClient<Channel>,
    /// Reports where the time of tasks goes.
    pub analytics: AnalyticsServiceClient<Channel>,
}

/// Why connecting failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The URL cannot name a server.
    #[error("`{url}` is not the URL of a server: {reason}")]
    InvalidUrl {
        /// The URL as given.
        url: String,
        /// The reason.
        reason: String,
    },
    /// No server answers there.
    #[error("cannot reach the server at {url}")]
    Unreachable {
        /// The URL as given.
        url: String,
        /// The error of the transport.
        #[source]
        source: tonic::transport::Error,
    },
}

impl Client {
    /// Connects to `url`, such as `http://127.0.0.1:7233`; without a scheme, `http` is meant.
    ///
    /// # Errors
    /// [`ConnectError::InvalidUrl`] before anything is sent, [`ConnectError::Unreachable`] after
    /// [`CONNECT_TIMEOUT`] at the latest.
    pub async fn connect(url: &str) -> Result<Self, ConnectError> {
        Ok(Self::over(connect(url).await?))
    }

    /// Makes the clients over an existing channel.
    pub fn over(channel: Channel) -> Self {
        macro_rules! client {
            ($service:ident) => {
                $service::new(channel.clone())
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES)
            };
        }
        Self {
            tasks: client!(TaskServiceClient),
            templates: client!(TemplateServiceClient),
            events: client!(EventServiceClient),
            workers: client!(WorkerServiceClient),
            circuits: client!(CircuitServiceClient),
            analytics: client!(AnalyticsServiceClient),
        }
    }
}

/// Opens a channel, and returns once it is connected.
pub(crate) async fn connect(url: &str) -> Result<Channel, ConnectError> {
    let unreachable = |source| ConnectError::Unreachable {
        url: url.to_owned(),
        source,
    };
    endpoint(url)?.connect().await.map_err(unreachable)
}

/// The endpoint of a server, with the time-outs of this module. It opens no connection: for a
/// channel that connects at its first call, with [`Client::over`].
///
/// # Errors
/// [`ConnectError::InvalidUrl`].
pub fn endpoint(url: &str) -> Result<Endpoint, ConnectError> {
    let invalid = |reason: String| ConnectError::InvalidUrl {
        url: url.to_owned(),
        reason,
    };
    // An authority alone is a valid URI too, but one without a scheme.
    let full = if url.contains("://") {
        url.to_owned()
    } else {
        format!("http://{url}")
    };
    let uri: Uri = full.parse().map_err(|e| invalid(format!("{e}")))?;
    if uri.scheme_str() != Some("http") {
        return Err(invalid(
            "its scheme must be `http`, since this client does not support TLS".into(),
        ));
    }
    // gRPC has its own paths, so a path of the URL would be ignored silently.
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(invalid("it must end after the port".into()));
    }
    // Without pings, a server that vanished would be noticed by the next call only, and by a stream
    // never.
    let endpoint = Endpoint::from(uri)
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REQUEST_TIMEOUT)
        .tcp_nodelay(true)
        .tcp_keepalive(Some(KEEPALIVE))
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .user_agent(concat!("tasker/", env!("CARGO_PKG_VERSION")))
        .map_err(|e| invalid(e.to_string()))?;
    Ok(endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_without_a_scheme_is_accepted_and_other_schemes_are_refused() {
        for good in [
            "http://127.0.0.1:7233",
            "http://[::1]:7233/",
            "127.0.0.1:7233",
            "tasker.internal",
        ] {
            assert!(endpoint(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "https://example.org",
            "ftp://example.org",
            "http://",
            "http://h:1/path",
            "http://h?q=1",
            "a b",
        ] {
            assert!(
                matches!(endpoint(bad), Err(ConnectError::InvalidUrl { .. })),
                "{bad}"
            );
        }
    }
}
