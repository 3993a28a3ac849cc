//! The end of an attempt as a message of the protocol, within the protocol's bounds.
//!
//! A result that a server cannot accept would be sent again after every reconnect, so an oversized
//! one is detected here, where it can still become an error.

use std::time::Duration;

use crate::{
    PermanentError, StepError,
    proto::{self, step_result::Outcome},
};

/// Most bytes of a step's result as JSON. A larger one fails the step with `RESULT_INVALID`.
pub const MAX_RESULT_BYTES: usize = 1 << 20;
/// Most bytes of an error's context as JSON. A larger one is left out.
pub const MAX_ERROR_CONTEXT_BYTES: usize = 64 << 10;
/// Most bytes of an error's message. The rest is cut off.
pub const MAX_ERROR_MESSAGE_BYTES: usize = 8 << 10;
/// Most bytes of an error's code. The rest is cut off.
pub const MAX_ERROR_CODE_BYTES: usize = 255;

/// The longest `google.protobuf.Duration`: about 10,000 years.
const MAX_DELAY: Duration = Duration::from_secs(315_576_000_000);

/// Converts a handler's answer, JSON text or an error, into the outcome that the server receives.
pub(crate) fn outcome(answer: Result<String, StepError>) -> Outcome {
    match answer {
        // Permanent, since a retry would most likely give the same result.
        Ok(json) if json.len() > MAX_RESULT_BYTES => {
            let size = json.len();
            let message = format!("the result has {size} bytes; at most {MAX_RESULT_BYTES}");
            let error = PermanentError::new(message).error_code("RESULT_INVALID");
            outcome(Err(error.into()))
        }
        Ok(result_json) => Outcome::Success(proto::Success { result_json }),
        Err(StepError::Retryable(error)) => Outcome::RetryableError(proto::RetryableError {
            message: cut(error.message, MAX_ERROR_MESSAGE_BYTES),
            error_code: cut(error.error_code, MAX_ERROR_CODE_BYTES),
            retry_after: error.retry_after.map(to_proto),
            context_json: bounded_context(error.context_json),
        }),
        Err(StepError::Permanent(error)) => Outcome::PermanentError(proto::PermanentError {
            message: cut(error.message, MAX_ERROR_MESSAGE_BYTES),
            error_code: cut(error.error_code, MAX_ERROR_CODE_BYTES),
            context_json: bounded_context(error.context_json),
        }),
        Err(StepError::Released) => Outcome::Released(proto::Released {}),
    }
}

fn to_proto(delay: Duration) -> prost_types::Duration {
    // After the minimum the conversion cannot fail.
    delay.min(MAX_DELAY).try_into().unwrap_or_default()
}

fn bounded_context(json: String) -> String {
    if json.len() <= MAX_ERROR_CONTEXT_BYTES {
        return json;
    }
    let size = json.len();
    format!(r#"{{"context_error":"{size} bytes; at most {MAX_ERROR_CONTEXT_BYTES}"}}"#)
}

fn cut(mut text: String, max_bytes: usize) -> String {
    if text.len() > max_bytes {
        let end = (0..=max_bytes)
            .rev()
            .find(|&end| text.is_char_boundary(end));
        text.truncate(end.unwrap_or(0));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RetryableError;

    fn retryable(error: RetryableError) -> proto::RetryableError {
        match outcome(Err(error.into())) {
            Outcome::RetryableError(error) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn result_over_the_size_is_refused() {
        let json = |bytes| format!("\"{}\"", "x".repeat(bytes - 2));
        assert!(matches!(
            outcome(Ok(json(MAX_RESULT_BYTES))),
            Outcome::Success(_)
        ));
        let Outcome::PermanentError(error) = outcome(Ok(json(MAX_RESULT_BYTES + 1))) else {
            panic!("a result that is too large")
        };
        assert_eq!(error.error_code, "RESULT_INVALID");
        assert_eq!(
            error.message,
            "the result has 1048577 bytes; at most 1048576"
        );
    }

    #[test]
    fn error_message_is_cut_at_a_character() {
        let error = retryable(RetryableError::new("é".repeat(MAX_ERROR_MESSAGE_BYTES)));
        assert_eq!(error.message.len(), MAX_ERROR_MESSAGE_BYTES);
        let error =
            retryable(RetryableError::new("m").error_code("é".repeat(MAX_ERROR_CODE_BYTES)));
        assert_eq!(error.error_code.len(), MAX_ERROR_CODE_BYTES - 1);
    }

    #[test]
    fn error_context_over_the_size_is_omitted() {
        // `{"value":"…"}` has 12 bytes beside the text.
        let full = "x".repeat(MAX_ERROR_CONTEXT_BYTES - 12);
        let error = retryable(RetryableError::new("m").context(&full));
        assert_eq!(error.context_json.len(), MAX_ERROR_CONTEXT_BYTES);
        let error = retryable(RetryableError::new("m").context(full + "x"));
        assert_eq!(
            error.context_json,
            r#"{"context_error":"65537 bytes; at most 65536"}"#
        );
    }

    #[test]
    fn delay_of_any_length_converts_to_protobuf() {
        let error = retryable(RetryableError::new("m").retry_after(Duration::MAX));
        assert_eq!(
            error.retry_after.map(|delay| delay.seconds),
            Some(315_576_000_000)
        );
        let error = retryable(RetryableError::new("m").retry_after(Duration::from_millis(1_500)));
        assert_eq!(
            error.retry_after.map(|d| (d.seconds, d.nanos)),
            Some((1, 500_000_000))
        );
    }
}
