//! Turns the answers of HTTP services into results and step errors.
//!
//! The rule for a handler that calls a service over HTTP, with any client that uses the types of
//! the `http` crate: an overloaded or broken service is worth a retry, a refused request is not. A
//! delay in `Retry-After` is passed on, and the server pauses the whole service until then.
//!
//! ```
//! use http::{HeaderMap, HeaderValue, StatusCode};
//! use tasker_worker::{StepError, http as answers};
//!
//! let mut headers = HeaderMap::new();
//! headers.insert("retry-after", HeaderValue::from_static("30"));
//! let error = answers::check("billing_service", StatusCode::TOO_MANY_REQUESTS, &headers).unwrap_err();
//! assert!(matches!(error, StepError::Retryable(_)));
//! assert_eq!(error.to_string(), "Rate limited by billing_service");
//! ```

use std::{
    error::Error,
    time::{Duration, SystemTime},
};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::RETRY_AFTER};
use serde_json::json;

use crate::{PermanentError, RetryableError, StepContext, StepError};

/// Headers for every call that a step makes, with any client: `idempotency-key`, `x-correlation-id`
/// and `traceparent`, so that the call has one effect, and is found under the task's correlation id
/// and in its trace. With the feature `otel` the trace continues from the handler's current span.
///
/// ```
/// # fn example(client: &mut Vec<(String, String)>, step: &tasker_worker::StepContext) {
/// for (name, value) in &tasker_worker::http::headers(step) {
///     client.push((name.to_string(), value.to_str().unwrap_or_default().to_owned()));
/// }
/// # }
/// ```
pub fn headers(step: &StepContext) -> HeaderMap {
    #[cfg(feature = "otel")]
    let own = crate::telemetry::traceparent();
    #[cfg(not(feature = "otel"))]
    let own: Option<String> = None;
    let trace = own
        .as_deref()
        .or_else(|| step.traceparent())
        .unwrap_or_default();
    let mut headers = HeaderMap::new();
    let all = [
        (
            HeaderName::from_static("idempotency-key"),
            step.idempotency_key(),
        ),
        (
            HeaderName::from_static("x-correlation-id"),
            step.correlation_id(),
        ),
        (HeaderName::from_static("traceparent"), trace),
    ];
    for (name, text) in all.into_iter().filter(|(_, text)| !text.is_empty()) {
        // Names of steps and ids may be in any script; as bytes they always fit, since none has
        // control characters.
        if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
            headers.insert(name, value);
        }
    }
    headers
}

/// How long a service that answers 429 without a usable `Retry-After` is paused.
pub const DEFAULT_RATE_LIMIT_DELAY: Duration = Duration::from_secs(60);

/// Converts an answer's status into the outcome of the step. A status with a meaning of its own,
/// such as 409 for an object that exists already, is for the handler to examine first.
///
/// # Errors
///
/// | status | error | code | `Retry-After` |
/// |---|---|---|---|
/// | 2xx | none | | |
/// | 429 | retryable | `RATE_LIMITED` | honoured; [`DEFAULT_RATE_LIMIT_DELAY`] when absent |
/// | 408, 425, 5xx | retryable | `SERVER_ERROR` | honoured |
/// | other 4xx | permanent | `CLIENT_ERROR` | |
/// | all else | permanent | `UNEXPECTED_STATUS` | |
///
/// `Retry-After` may be seconds or a date. The error's context names the service.
#[expect(
    clippy::disallowed_methods,
    reason = "a date in Retry-After is only meaningful against a clock"
)]
pub fn check(service: &str, status: StatusCode, headers: &HeaderMap) -> Result<(), StepError> {
    check_at(service, status, headers, SystemTime::now())
}

/// The error of a service that cannot be reached or whose connection broke: retryable,
/// `CONNECTION_ERROR`. The message has the error and its causes.
pub fn connection_error(service: &str, error: &dyn Error) -> StepError {
    let mut message = format!("{service} connection error: {error}");
    let mut cause = error.source();
    // Clients often state only "error sending request"; the reason is in an inner cause.
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    RetryableError::new(message)
        .error_code("CONNECTION_ERROR")
        .context(json!({"service": service, "error_type": "connection_error"}))
        .into()
}

/// The error of a service that did not answer in time: retryable, `TIMEOUT`.
pub fn timeout(service: &str) -> StepError {
    RetryableError::new(format!("{service} timeout: no answer in time"))
        .error_code("TIMEOUT")
        .context(json!({"service": service, "error_type": "timeout"}))
        .into()
}

fn check_at(
    service: &str,
    status: StatusCode,
    headers: &HeaderMap,
    now: SystemTime,
) -> Result<(), StepError> {
    let code = status.as_u16();
    Err(match code {
        200..=299 => return Ok(()),
        429 => RetryableError::new(format!("Rate limited by {service}"))
            .error_code("RATE_LIMITED")
            .retry_after(retry_after(headers, now).unwrap_or(DEFAULT_RATE_LIMIT_DELAY))
            .context(json!({"service": service, "rate_limit_type": "server_requested"}))
            .into(),
        // These two of the client errors ask for a repetition.
        408 | 425 | 500..=599 => {
            let error = RetryableError::new(format!("{service} server error: {code}"))
                .error_code("SERVER_ERROR")
                .context(json!({"service": service, "error_type": "server_error"}));
            match retry_after(headers, now) {
                Some(delay) => error.retry_after(delay).into(),
                None => error.into(),
            }
        }
        400..=499 => PermanentError::new(format!("{service} client error: {code}"))
            .error_code("CLIENT_ERROR")
            .context(json!({"service": service}))
            .into(),
        // A client that follows redirects never returns 1xx or 3xx.
        _ => PermanentError::new(format!("{service} unexpected status: {code}"))
            .error_code("UNEXPECTED_STATUS")
            .context(json!({"service": service}))
            .into(),
    })
}

/// Parses seconds or a date (RFC 9110, section 10.2.3). A date that has passed is a delay of zero;
/// any other value counts as absent.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT.
    const NOW: Duration = Duration::from_secs(784_111_777);

    /// Kind, code, message and `retry_after` in seconds of the result of `check`.
    fn verdict(status: u16, header: Option<&str>) -> (&'static str, String, String, Option<u64>) {
        let mut headers = HeaderMap::new();
        if let Some(value) = header {
            headers.insert(RETRY_AFTER, value.parse().unwrap());
        }
        let status = StatusCode::from_u16(status).unwrap();
        match check_at(
            "billing_service",
            status,
            &headers,
            SystemTime::UNIX_EPOCH + NOW,
        ) {
            Ok(()) => ("ok", String::new(), String::new(), None),
            Err(StepError::Retryable(e)) => (
                "retryable",
                e.error_code,
                e.message,
                e.retry_after.map(|delay| delay.as_secs()),
            ),
            Err(StepError::Permanent(e)) => ("permanent", e.error_code, e.message, None),
            Err(StepError::Released) => panic!("an answer never releases a step"),
        }
    }

    #[test]
    fn http_status_maps_to_an_outcome() {
        let date = Some("Sun, 06 Nov 1994 08:50:07 GMT");
        let past = Some("Sun, 06 Nov 1994 08:00:00 GMT");
        let limited = |delay| {
            (
                "retryable",
                "RATE_LIMITED",
                "Rate limited by billing_service",
                delay,
            )
        };
        let broken = |message, delay| ("retryable", "SERVER_ERROR", message, delay);
        let refused = |message| ("permanent", "CLIENT_ERROR", message, None);
        let odd = |message| ("permanent", "UNEXPECTED_STATUS", message, None);
        for (status, header, expected) in [
            (200, None, ("ok", "", "", None)),
            (204, Some("9"), ("ok", "", "", None)),
            (429, Some("7"), limited(Some(7))),
            (429, Some(" 7 "), limited(Some(7))),
            (429, Some("0"), limited(Some(0))),
            (429, date, limited(Some(30))),
            (429, past, limited(Some(0))),
            (429, Some("soon"), limited(Some(60))),
            (429, Some("-1"), limited(Some(60))),
            (429, None, limited(Some(60))),
            (500, None, broken("billing_service server error: 500", None)),
            (
                503,
                Some("9"),
                broken("billing_service server error: 503", Some(9)),
            ),
            (
                503,
                date,
                broken("billing_service server error: 503", Some(30)),
            ),
            (
                599,
                Some("soon"),
                broken("billing_service server error: 599", None),
            ),
            (408, None, broken("billing_service server error: 408", None)),
            (
                425,
                Some("1"),
                broken("billing_service server error: 425", Some(1)),
            ),
            (400, Some("9"), refused("billing_service client error: 400")),
            (404, None, refused("billing_service client error: 404")),
            (499, None, refused("billing_service client error: 499")),
            (100, None, odd("billing_service unexpected status: 100")),
            (302, None, odd("billing_service unexpected status: 302")),
            (600, None, odd("billing_service unexpected status: 600")),
        ] {
            let (kind, code, message, delay) = verdict(status, header);
            let found = (kind, code.as_str(), message.as_str(), delay);
            assert_eq!(found, expected, "{status} {header:?}");
        }
    }

    #[test]
    fn error_context_names_the_service() {
        let context = |error| match error {
            StepError::Retryable(error) => error.context_json,
            other => panic!("{other:?}"),
        };
        let answer = |status| check("s", status, &HeaderMap::new()).unwrap_err();
        assert_eq!(
            context(answer(StatusCode::TOO_MANY_REQUESTS)),
            r#"{"service":"s","rate_limit_type":"server_requested"}"#
        );
        assert_eq!(
            context(answer(StatusCode::BAD_GATEWAY)),
            r#"{"service":"s","error_type":"server_error"}"#
        );
        assert_eq!(
            context(timeout("s")),
            r#"{"service":"s","error_type":"timeout"}"#
        );
    }

    #[test]
    fn connection_error_lists_its_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("request failed")]
        struct Outer(#[source] std::io::Error);

        let inner = std::io::Error::other("connection refused");
        let error = connection_error("billing_service", &Outer(inner));
        assert_eq!(
            error.to_string(),
            "billing_service connection error: request failed: connection refused"
        );
        assert!(matches!(error, StepError::Retryable(e) if e.error_code == "CONNECTION_ERROR"));
    }
}
