//! How a step fails: an error that states whether a retry may help.

use std::time::Duration;

use serde::Serialize;
use thiserror::Error;

/// Why a handler did not produce a result.
///
/// `?` turns a [`RetryableError`] or a [`PermanentError`] into it.
#[derive(Clone, Debug, Error)]
pub enum StepError {
    /// The step may succeed on a retry; costs one of the step's attempts.
    #[error(transparent)]
    Retryable(#[from] RetryableError),
    /// A retry is useless: the step fails at once, whatever attempts are left.
    #[error(transparent)]
    Permanent(#[from] PermanentError),
    /// The handler did nothing, and another worker should get the step; costs no attempt.
    #[error("released to another worker")]
    Released,
}

/// The step may succeed on a retry: a time-out, a full queue, a service that is down.
///
/// ```
/// use std::time::Duration;
/// use tasker_worker::{RetryableError, StepError};
///
/// fn rate_limited() -> Result<(), StepError> {
///     Err(RetryableError::new("Rate limited by billing_service")
///         .error_code("RATE_LIMITED")
///         .retry_after(Duration::from_secs(30))
///         .context(serde_json::json!({"service": "billing_service"})))?
/// }
/// # assert!(rate_limited().is_err());
/// ```
#[derive(Clone, Debug, Error)]
#[error("{message}")]
pub struct RetryableError {
    pub(crate) message: String,
    pub(crate) error_code: String,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) context_json: String,
}

impl RetryableError {
    /// An error with a message for people; at most [`MAX_ERROR_MESSAGE_BYTES`] of it are sent.
    ///
    /// [`MAX_ERROR_MESSAGE_BYTES`]: crate::MAX_ERROR_MESSAGE_BYTES
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            error_code: String::new(),
            retry_after: None,
            context_json: String::new(),
        }
    }

    /// The minimum delay before the next attempt. The server never shortens it and honours at most
    /// one hour; it pauses the whole service until then, not only this step.
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// A code for programs, such as `RATE_LIMITED`.
    pub fn error_code(mut self, code: impl Into<String>) -> Self {
        self.error_code = code.into();
        self
    }

    /// Facts that help to analyse the failed attempt: a value that serializes to a JSON object of
    /// at most [`MAX_ERROR_CONTEXT_BYTES`]. A value of another shape is sent as `{"value": …}`.
    ///
    /// [`MAX_ERROR_CONTEXT_BYTES`]: crate::MAX_ERROR_CONTEXT_BYTES
    pub fn context(mut self, context: impl Serialize) -> Self {
        self.context_json = object_json(&context);
        self
    }
}

/// A retry is useless: a conflict, an input that no service accepts, a missing permission.
///
/// ```
/// use tasker_worker::{PermanentError, StepError};
///
/// let conflict = PermanentError::new("the user exists with different data").error_code("USER_CONFLICT");
/// assert!(matches!(StepError::from(conflict), StepError::Permanent(_)));
/// ```
#[derive(Clone, Debug, Error)]
#[error("{message}")]
pub struct PermanentError {
    pub(crate) message: String,
    pub(crate) error_code: String,
    pub(crate) context_json: String,
}

impl PermanentError {
    /// An error with a message for people; at most [`MAX_ERROR_MESSAGE_BYTES`] of it are sent.
    ///
    /// [`MAX_ERROR_MESSAGE_BYTES`]: crate::MAX_ERROR_MESSAGE_BYTES
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            error_code: String::new(),
            context_json: String::new(),
        }
    }

    /// A code for programs, such as `USER_CONFLICT`.
    pub fn error_code(mut self, code: impl Into<String>) -> Self {
        self.error_code = code.into();
        self
    }

    /// Facts that help to analyse the failed attempt: a value that serializes to a JSON object of
    /// at most [`MAX_ERROR_CONTEXT_BYTES`]. A value of another shape is sent as `{"value": …}`.
    ///
    /// [`MAX_ERROR_CONTEXT_BYTES`]: crate::MAX_ERROR_CONTEXT_BYTES
    pub fn context(mut self, context: impl Serialize) -> Self {
        self.context_json = object_json(&context);
        self
    }
}

/// JSON text of an object. An error's context must not become an error itself, so a value that does
/// not serialize is replaced by the reason.
fn object_json(value: &impl Serialize) -> String {
    match serde_json::to_string(value) {
        Ok(json) if json.starts_with('{') => json,
        // `()` and `None` have no facts to send.
        Ok(json) if json == "null" => String::new(),
        Ok(json) => format!(r#"{{"value":{json}}}"#),
        Err(reason) => serde_json::json!({"context_error": reason.to_string()}).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_context_is_always_an_object() {
        assert_eq!(object_json(&serde_json::json!({"a": 1})), r#"{"a":1}"#);
        assert_eq!(object_json(&[1, 2]), r#"{"value":[1,2]}"#);
        assert_eq!(object_json(&()), "");
        let not_json = std::collections::HashMap::from([(vec![1], 1)]);
        assert!(object_json(&not_json).starts_with(r#"{"context_error":"#));
    }
}
