//! The web pages that may call this server. None by default: there is no authentication, so a page
//! that may call it can do everything, and any page opened on this machine or in this network would
//! be such a page.

use std::{str::FromStr, time::Duration};

use axum::{
    Router,
    http::{HeaderName, HeaderValue, Method, header},
};
use tower_http::cors::CorsLayer;

use super::route::IDEMPOTENCY_KEY;

/// How long a browser caches the permission.
const MAX_AGE: Duration = Duration::from_secs(3_600);
/// The headers that pages may send and read: those of JSON, of gRPC-Web, and of server-sent events.
const SENT: [HeaderName; 7] = [
    header::CONTENT_TYPE,
    HeaderName::from_static(IDEMPOTENCY_KEY),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("x-grpc-web"),
    HeaderName::from_static("x-user-agent"),
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static("last-event-id"),
];
const SEEN: [HeaderName; 4] = [
    header::RETRY_AFTER,
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
];

/// Scheme, host and port of web pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(HeaderValue);

impl FromStr for Origin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "*" {
            return Err(
                "every page of the web could command this server, which has no authentication; name the origins",
            );
        }
        let expected = "expected scheme, host and perhaps a port, such as https://ops.example.com";
        let host = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"))
            .ok_or(expected)?;
        // As browsers send an origin: in lower case, without a path, so that it can be compared as
        // it is.
        let is_plain =
            |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-:[]".contains(c);
        if host.is_empty()
            || !host.chars().all(is_plain)
            || text.parse::<axum::http::Uri>().is_err()
        {
            return Err(expected);
        }
        HeaderValue::from_str(text).map(Self).map_err(|_| expected)
    }
}

impl Origin {
    /// Whether the `Origin` header of a browser equals this origin.
    pub fn is(&self, header: &HeaderValue) -> bool {
        self.0 == *header
    }
}

/// Admits pages from these origins.
pub fn allow(router: Router, origins: &[Origin]) -> Router {
    // Without the layer a preflight gets no permission, and browsers refuse the call.
    if origins.is_empty() {
        return router;
    }
    let cors = CorsLayer::new()
        .allow_origin(
            origins
                .iter()
                .map(|origin| origin.0.clone())
                .collect::<Vec<_>>(),
        )
        .allow_methods([Method::GET, Method::POST])
        .allow_headers(SENT)
        .expose_headers(SEEN)
        .max_age(MAX_AGE);
    router.layer(cors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origin_must_have_the_form_that_browsers_send() {
        for text in [
            "https://ops.example.com",
            "http://127.0.0.1:3000",
            "http://[::1]:3000",
        ] {
            assert!(text.parse::<Origin>().is_ok(), "{text}");
        }
        for text in [
            "*",
            "",
            "null",
            "ops.example.com",
            "https://",
            "https://a/",
            "https://A",
            "https://a b",
            "ftp://a",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }
}
