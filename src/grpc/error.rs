//! Every error for clients, as a status with google.rpc details.

use std::{fmt::Display, time::Duration};

use tasker_template::{Problem, Violation};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use uuid::Uuid;

use crate::{
    domain::order::{DEADLINE_EXCEEDED, OrderError},
    engine::{
        BulkError, Closed, CommandError, IntakeError, RegisterError, RegistrationError, Violated,
        retry_after,
    },
    store::StoreError,
};

/// `ErrorInfo.domain` of all our errors.
const DOMAIN: &str = "tasker.v1";
/// Retry delay while the database is away.
const DATABASE_RETRY: Duration = Duration::from_secs(1);
/// Retry delay for a server that has its maximum of streams of a kind.
pub const FULL_RETRY: Duration = Duration::from_secs(5);

/// Hexadecimal digits of an error id in the log.
const ERROR_ID_DIGITS: usize = 12;
/// Bound on the message of a status. A status travels in headers, percent-encoded in one and in
/// base64 in the other, and common clients accept 8 KiB of headers in all.
const MAX_MESSAGE_BYTES: usize = 768;
/// Bound on the field violations of a status, in bytes, for the same reason; the status states how
/// many were omitted.
const MAX_VIOLATIONS_BYTES: usize = 3 << 10;
/// Bounds on the field name and on the message of a violation, so that some violations always fit.
const MAX_FIELD_BYTES: usize = 255;
const MAX_VIOLATION_BYTES: usize = 512;
/// Bytes that protobuf adds to the text of a violation.
const VIOLATION_OVERHEAD: usize = 9;

/// A status with a machine-readable reason.
pub fn status(code: Code, reason: &str, message: impl Into<String>) -> Status {
    let details = ErrorDetails::with_error_info(reason, DOMAIN, std::collections::HashMap::new());
    Status::with_error_details(code, shortened(&message.into(), MAX_MESSAGE_BYTES), details)
}

/// A status with a retry delay.
pub fn retry_later(
    code: Code,
    reason: &str,
    message: impl Into<String>,
    after: Duration,
) -> Status {
    let mut details =
        ErrorDetails::with_error_info(reason, DOMAIN, std::collections::HashMap::new());
    details.set_retry_info(Some(after));
    Status::with_error_details(code, message, details)
}

/// INVALID_ARGUMENT for one field.
pub fn invalid(field: &str, message: impl Into<String>) -> Status {
    violations(&[Violated {
        field: field.to_owned(),
        message: message.into(),
    }])
}

/// INVALID_ARGUMENT with a violation per field; the first ones are in the message too, for clients
/// that show no details.
pub fn violations(all: &[Violated]) -> Status {
    violations_of(all, all.len())
}

/// As [`violations`], for the first ones of `total`.
fn violations_of(all: &[Violated], total: usize) -> Status {
    const SHOWN: usize = 3;
    let said = |v: &Violated| match v.field.as_str() {
        "" => v.message.clone(),
        field => format!("{field}: {}", v.message),
    };
    let shown: Vec<String> = all.iter().take(SHOWN).map(said).collect();
    let more = total.saturating_sub(shown.len());
    let more = if more > 0 {
        format!("; and {more} more")
    } else {
        String::new()
    };
    // The number of the omitted ones must survive the cut, so its length is reserved.
    let message = shortened(&shown.join("; "), MAX_MESSAGE_BYTES - more.len()) + &more;
    let mut details =
        ErrorDetails::with_error_info("INVALID_FIELDS", DOMAIN, std::collections::HashMap::new());
    let mut room = MAX_VIOLATIONS_BYTES;
    let mut listed = 0;
    for violated in all {
        let field = shortened(&violated.field, MAX_FIELD_BYTES);
        let message = shortened(&violated.message, MAX_VIOLATION_BYTES);
        // The first one without room ends the list, even if a shorter one would fit: the listed
        // ones are a prefix, and the last entry counts the rest.
        let Some(rest) = room.checked_sub(VIOLATION_OVERHEAD + field.len() + message.len()) else {
            break;
        };
        room = rest;
        listed += 1;
        details.add_bad_request_violation(field, message);
    }
    if total > listed {
        details.add_bad_request_violation("", format!("{} more are not listed", total - listed));
    }
    Status::with_error_details(Code::InvalidArgument, message, details)
}

impl From<Violated> for Status {
    fn from(violated: Violated) -> Self {
        violations(&[violated])
    }
}

/// A violation in one task of a list.
pub fn in_tasks(index: usize, violated: Violated) -> Violated {
    Violated {
        field: format!("tasks[{index}].{}", violated.field),
        message: violated.message,
    }
}

/// At most `max` bytes, in whole characters.
fn shortened(text: &str, max: usize) -> String {
    const ELLIPSIS: char = '…';
    if text.len() <= max {
        return text.to_owned();
    }
    let room = max.saturating_sub(ELLIPSIS.len_utf8());
    // A character has four bytes at most, so the search is short.
    let end = (0..=room)
        .rev()
        .find(|i| text.is_char_boundary(*i))
        .unwrap_or_default();
    format!("{}{ELLIPSIS}", &text[..end])
}

/// INVALID_ARGUMENT with a violation per problem of a template, for the first ones of `total`.
fn problems(listed: &[Problem], total: usize) -> Status {
    let violated = |p: &Problem| Violated {
        field: format!("yaml:{}:{}", p.line, p.column),
        message: if p.path.is_empty() {
            p.message.clone()
        } else {
            format!("{}: {}", p.path, p.message)
        },
    };
    // The last entry of a truncated list only states that it is truncated, which the status does
    // itself.
    let shown = if total > listed.len() {
        listed.len().saturating_sub(1)
    } else {
        listed.len()
    };
    violations_of(
        &listed.iter().take(shown).map(violated).collect::<Vec<_>>(),
        total,
    )
}

/// A failed read or write. The message of Postgres goes to the log under an id that the client
/// gets: the message names tables, statements and sometimes data of other clients.
pub fn store(error: &StoreError) -> Status {
    if error.is_bad_text() {
        tracing::debug!(%error, "a call contains text that Postgres cannot store");
        let message =
            "a text of the request has a character that cannot be stored, such as NUL (U+0000)";
        return status(Code::InvalidArgument, "INVALID_TEXT", message);
    }
    // Before the transient errors, which include it: the more specific message comes first.
    if error.is_read_only() {
        tracing::debug!(%error, "a call failed: the database is read-only");
        return unavailable("the database is read-only");
    }
    if error.is_transient() {
        tracing::debug!(%error, "a call failed: the database is unavailable");
        return unavailable("the database cannot be reached or is busy");
    }
    let id = logged(error, "a call failed in the database");
    status(
        Code::Internal,
        "INTERNAL",
        format!("the server failed; see its log under error_id={id}"),
    )
}

/// Logs an error that clients must not see, and returns its id in the log.
fn logged(error: impl Display, what: &str) -> String {
    let mut id = Uuid::new_v4().simple().to_string();
    id.truncate(ERROR_ID_DIGITS);
    tracing::error!(%error, error_id = id, "{what}");
    id
}

/// INTERNAL: a fault of the server that no client can correct.
pub fn internal() -> Status {
    status(Code::Internal, "INTERNAL", "the server failed; see its log")
}

/// UNAVAILABLE, with a retry delay.
pub fn unavailable(message: &str) -> Status {
    retry_later(
        Code::Unavailable,
        "UNAVAILABLE",
        format!("{message}; try again"),
        DATABASE_RETRY,
    )
}

/// A refused submit; with `many` the request had a list of tasks, so the answer names the position.
pub fn intake(error: IntakeError, many: bool) -> Status {
    let place = |index: usize| {
        if many {
            format!("tasks[{index}]: ")
        } else {
            String::new()
        }
    };
    match error {
        IntakeError::Invalid(all) => violations(
            &all.into_iter()
                .map(|(i, v)| if many { in_tasks(i, v) } else { v })
                .collect::<Vec<_>>(),
        ),
        IntakeError::NoTemplate { index, .. } => status(
            Code::NotFound,
            "TEMPLATE_NOT_FOUND",
            format!(
                "{}{error}; see `tasker template list`, or register it",
                place(index)
            ),
        ),
        IntakeError::Retired { index, all, .. } => {
            let other = if all {
                ""
            } else {
                ", or submit to another version"
            };
            status(
                Code::FailedPrecondition,
                "TEMPLATE_RETIRED",
                format!(
                    "{}{error}; `tasker template register FILE` with the same content ends the retirement{other}",
                    place(index)
                ),
            )
        }
        IntakeError::KeyTaken { index, .. } => status(
            Code::AlreadyExists,
            "IDEMPOTENCY_KEY_REUSED",
            format!(
                "{}{error}; use a new key for a different submission",
                place(index)
            ),
        ),
        IntakeError::Full => retry_later(
            Code::ResourceExhausted,
            "INTAKE_FULL",
            "the intake queue of the server is full; slow down and try again",
            retry_after(),
        ),
        IntakeError::ShuttingDown => unavailable("the server is shutting down"),
        // The commit may have happened before the connection broke, so only a repetition with the
        // same key is safe.
        IntakeError::Failed(error) if error.is_transient() => unavailable(
            "the database did not confirm the submit, which may be stored; repeat it with its idempotency key",
        ),
        IntakeError::Failed(error) => store(&error),
    }
}

/// A refused order.
pub fn order(error: OrderError) -> Status {
    let (code, reason) = match &error {
        OrderError::NotFound(_) => (Code::NotFound, "TASK_NOT_FOUND"),
        OrderError::NoStep(_) => (Code::NotFound, "STEP_NOT_FOUND"),
        OrderError::TaskIs { state, .. } if state.is_final() => {
            (Code::FailedPrecondition, "TASK_ENDED")
        }
        OrderError::TaskIs { .. } | OrderError::NothingFailed(_) => {
            (Code::FailedPrecondition, "TASK_STATE")
        }
        OrderError::StepIs { .. } => (Code::FailedPrecondition, "STEP_STATE"),
        OrderError::Expired(_) => (Code::FailedPrecondition, DEADLINE_EXCEEDED),
        OrderError::OtherResult(_) => (Code::FailedPrecondition, "OTHER_RESULT"),
        OrderError::Unfit {
            violations: all, ..
        } => {
            let named = |v: &Violation| Violated {
                field: format!("result_json{}", v.pointer),
                message: v.message.clone(),
            };
            return violations(&all.iter().map(named).collect::<Vec<_>>());
        }
        // The cause may name tables and data of others, so it goes to the log only, as in
        // [`store`].
        OrderError::Failed(why) => {
            let id = logged(why, "an order cannot be stored");
            return unavailable(&format!(
                "the order cannot be stored; see the server's log under error_id={id}"
            ));
        }
    };
    status(code, reason, error.to_string())
}

/// A refused registration, except for taken versions.
pub fn register(error: RegisterError) -> Status {
    match error {
        RegisterError::Invalid(checked) => problems(&checked.problems, checked.problems_total),
        RegisterError::Warned(warnings) => {
            let denied = |p: Problem| Problem {
                message: format!("warning, which `deny_warnings` refuses: {}", p.message),
                ..p
            };
            let warnings: Vec<Problem> = warnings.into_iter().map(denied).collect();
            problems(&warnings, warnings.len())
        }
        RegisterError::Store(error) => store(&error),
    }
}

/// A command that was not confirmed.
pub fn command(error: CommandError) -> Status {
    match error {
        CommandError::Refused(refused) => order(refused),
        CommandError::Late => unavailable(&error.to_string()),
        CommandError::Closed(closed) => closed.into(),
    }
}

/// A bulk command that ended early.
pub fn bulk(error: BulkError) -> Status {
    match error {
        BulkError::Store(error) => store(&error),
        BulkError::Failed(failed) => order(failed),
        BulkError::Late => unavailable(&error.to_string()),
        BulkError::Closed(closed) => closed.into(),
    }
}

/// A worker that cannot register here.
pub fn registration(error: RegistrationError) -> Status {
    match error {
        RegistrationError::TooManyWorkers => retry_later(
            Code::ResourceExhausted,
            "TOO_MANY_WORKERS",
            error.to_string(),
            FULL_RETRY,
        ),
        RegistrationError::Store(error) => store(&error),
        RegistrationError::Closed(closed) => closed.into(),
    }
}

/// The engine stopped during the call.
impl From<Closed> for Status {
    fn from(closed: Closed) -> Self {
        unavailable(&closed.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_text_of_postgres_is_not_sent_to_clients() {
        let words = "relation \"tasks\" does not exist (42P01)";
        let refused = order(OrderError::Failed(words.into()));
        let failed = store(&StoreError::Corrupt(words.into()));
        assert_eq!(
            (refused.code(), failed.code()),
            (Code::Unavailable, Code::Internal)
        );
        for status in [refused, failed] {
            assert!(!format!("{status:?}").contains("relation"), "{status:?}");
            let id = status
                .message()
                .split("error_id=")
                .nth(1)
                .unwrap_or_default();
            let digits = id.bytes().take_while(u8::is_ascii_hexdigit).count();
            assert_eq!(digits, ERROR_ID_DIGITS, "{}", status.message());
        }
    }
}
