//! Every error that can reach a client, as a status with google.rpc details.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::{
    domain::template::Problem,
    engine::{
        catalog::RegisterError,
        intake::{IntakeError, RETRY_AFTER, Violated},
        settle::{CancelError, Closed},
    },
    store::StoreError,
};

/// `ErrorInfo.domain` of all our errors.
const DOMAIN: &str = "tasker.v1";
/// When to come back while the database is away.
const DATABASE_RETRY: Duration = Duration::from_secs(1);

/// A status with a machine-readable reason.
pub fn status(code: Code, reason: &str, message: impl Into<String>) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, std::collections::HashMap::new());
    Status::with_error_details(code, message, details)
}

/// A status that says when to try again.
pub fn retry_later(code: Code, reason: &str, message: impl Into<String>, after: Duration) -> Status {
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, std::collections::HashMap::new());
    details.set_retry_info(Some(after));
    Status::with_error_details(code, message, details)
}

/// INVALID_ARGUMENT for one field.
pub fn invalid(field: &str, message: impl Into<String>) -> Status {
    violations(&[Violated { field: field.to_owned(), message: message.into() }])
}

/// INVALID_ARGUMENT with a violation per field; the first ones are in the message too, for clients that show no details.
pub fn violations(all: &[Violated]) -> Status {
    const SHOWN: usize = 3;
    let shown: Vec<String> = all.iter().take(SHOWN).map(|v| format!("{}: {}", v.field, v.message)).collect();
    let more = all.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let mut details = ErrorDetails::with_error_info("INVALID_FIELDS", DOMAIN, std::collections::HashMap::new());
    for violated in all {
        details.add_bad_request_violation(&violated.field, &violated.message);
    }
    Status::with_error_details(Code::InvalidArgument, shown.join("; ") + &more, details)
}

/// INVALID_ARGUMENT with a violation per problem of a template.
pub fn problems(all: &[Problem]) -> Status {
    let violated = |p: &Problem| Violated {
        field: format!("yaml:{}:{}", p.line, p.column),
        message: if p.path.is_empty() { p.message.clone() } else { format!("{}: {}", p.path, p.message) },
    };
    violations(&all.iter().map(violated).collect::<Vec<_>>())
}

/// A failed read or write.
pub fn store(error: &StoreError) -> Status {
    if error.is_transient() {
        tracing::debug!(%error, "a call met a database that is away");
        return unavailable("the database cannot be reached or is busy");
    }
    tracing::error!(%error, "a call failed in the database");
    status(Code::Internal, "INTERNAL", "the server failed; its log says more")
}

/// UNAVAILABLE, with a time to come back.
pub fn unavailable(message: &str) -> Status {
    retry_later(Code::Unavailable, "UNAVAILABLE", format!("{message}; try again"), DATABASE_RETRY)
}

/// A refused submit.
pub fn intake(error: IntakeError) -> Status {
    match error {
        IntakeError::Invalid(violated) => violations(&violated),
        IntakeError::NoTemplate { .. } => status(
            Code::NotFound,
            "TEMPLATE_NOT_FOUND",
            format!("{error}; see what is with `tasker template list`, or register it"),
        ),
        IntakeError::KeyTaken { .. } => status(
            Code::AlreadyExists,
            "IDEMPOTENCY_KEY_REUSED",
            format!("{error}; use a new key for a different submission"),
        ),
        IntakeError::Full => retry_later(
            Code::ResourceExhausted,
            "INTAKE_FULL",
            "more submits are waiting than the server takes; slow down and try again",
            RETRY_AFTER,
        ),
        IntakeError::ShuttingDown => unavailable("the server is shutting down"),
        IntakeError::Failed(error) if error.is_transient() => unavailable(
            "the database did not confirm the submit; it may or may not be stored, so repeat it with its idempotency key",
        ),
        IntakeError::Failed(error) => store(&error),
    }
}

/// A refused cancel.
pub fn cancel(error: CancelError) -> Status {
    match error {
        CancelError::NotFound(_) => status(Code::NotFound, "TASK_NOT_FOUND", error.to_string()),
        CancelError::Ended(state) => status(
            Code::FailedPrecondition,
            "TASK_ENDED",
            format!("{error}; a task that is {state} cannot be cancelled"),
        ),
        CancelError::Failed(_) => unavailable(&error.to_string()),
    }
}

/// A refused registration, but for taken versions.
pub fn register(error: RegisterError) -> Status {
    match error {
        RegisterError::Invalid(all) => problems(&all),
        RegisterError::Store(error) => store(&error),
    }
}

/// The engine ended while the call was under way.
pub fn closed(error: Closed) -> Status {
    unavailable(&error.to_string())
}
