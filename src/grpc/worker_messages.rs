//! Messages from workers, checked against their bounds. A malformed message ends the stream; a
//! handler's result that cannot be stored becomes a failure of its step, because the worker's other
//! steps are not at fault.

use std::time::Duration;

use tasker_template::{
    json_text,
    name::{self as names, MAX_NAME_BYTES},
};
use tonic::Status;
use uuid::Uuid;

use super::{convert::name as optional_name, error::invalid};
use crate::{
    domain::{
        attempt::{Failure, MAX_ERROR_CONTEXT_BYTES, MAX_RESULT_BYTES, MAX_RETRY_AFTER, Outcome},
        lease::Lease,
        size::{DEFAULT_ASSIGNMENT_BYTES, MAX_ASSIGNMENT_BYTES, MIN_ASSIGNMENT_BYTES},
        worker::Registration,
    },
    proto::{self, step_result::Outcome as Answer},
};

/// Bound on the handlers of one worker.
const MAX_HANDLERS: usize = 1_000;
/// Bound on the namespaces of one worker.
const MAX_NAMESPACES: usize = 100;
/// Bound on the leases that a worker registers with: those of running attempts, and those whose
/// results wait for an acknowledgement.
const MAX_HELD_LEASES: usize = 40_000;
/// Bound on the concurrent steps of one worker.
const MAX_CONCURRENT_STEPS: i32 = 10_000;
/// Error code of a result that cannot be accepted as it is.
const RESULT_INVALID: &str = "RESULT_INVALID";
/// Bound on the labels of one worker.
const MAX_LABELS: usize = 64;

/// A worker from its first message. `is_stored` returns whether a registered template has a handler
/// or a namespace of this name, which may be older than the grammar of names.
pub fn register(
    r: proto::Register,
    is_stored: impl Fn(&str) -> bool,
) -> Result<Registration, Status> {
    name("register.name", &r.name)?;
    optional_name("register.build_id", &r.build_id)?;
    // The counts come first, so that the loops below are bounded.
    count("register.handlers", r.handlers.len(), 1, MAX_HANDLERS)?;
    count("register.namespaces", r.namespaces.len(), 0, MAX_NAMESPACES)?;
    count("register.labels", r.labels.len(), 0, MAX_LABELS)?;
    count(
        "register.held_leases",
        r.held_leases.len(),
        0,
        MAX_HELD_LEASES,
    )?;
    if !(1..=MAX_CONCURRENT_STEPS).contains(&r.max_concurrent_steps) {
        let message = format!(
            "{} is out of bounds: expected 1 to {MAX_CONCURRENT_STEPS}",
            r.max_concurrent_steps
        );
        return Err(invalid("register.max_concurrent_steps", message));
    }
    // A client that does not know the field sends 0.
    let limit = if r.max_assignment_bytes == 0 {
        DEFAULT_ASSIGNMENT_BYTES
    } else {
        r.max_assignment_bytes
    };
    if !(MIN_ASSIGNMENT_BYTES..=MAX_ASSIGNMENT_BYTES).contains(&limit) {
        let message = format!(
            "{limit} is out of bounds: expected {MIN_ASSIGNMENT_BYTES} to {MAX_ASSIGNMENT_BYTES}, or 0 for {DEFAULT_ASSIGNMENT_BYTES}"
        );
        return Err(invalid("register.max_assignment_bytes", message));
    }
    for (field, names) in [
        ("register.handlers", &r.handlers),
        ("register.namespaces", &r.namespaces),
    ] {
        for text in names {
            name(field, text)?;
            // Templates may be older than the grammar, and their handlers must still find workers.
            names::check(text)
                .or_else(|why| if is_stored(text) { Ok(()) } else { Err(why) })
                .map_err(|why| invalid(field, format!("`{text:.80}`: {why}")))?;
        }
    }
    for (key, value) in &r.labels {
        name("register.labels", key)?;
        optional_name("register.labels", value)?;
    }
    let previous = match r.previous_worker_id.as_str() {
        "" => None,
        id => Some(Uuid::try_parse(id).map_err(|_| {
            invalid(
                "register.previous_worker_id",
                "not a worker id: copy `worker_id` from `registered`, or omit it",
            )
        })?),
    };
    Ok(Registration {
        name: r.name,
        build_id: r.build_id,
        namespaces: r.namespaces,
        handlers: r.handlers,
        max_concurrent_steps: r.max_concurrent_steps,
        max_assignment_bytes: limit,
        labels: serde_json::to_string(&r.labels).unwrap_or_else(|_| "{}".into()),
        previous,
        held: r
            .held_leases
            .iter()
            .map(|t| lease("register.held_leases", t))
            .collect::<Result<_, _>>()?,
    })
}

/// A lease and the outcome of its attempt.
pub fn result(r: proto::StepResult) -> Result<(Lease, Outcome), Status> {
    let lease = lease("result.lease_token", &r.lease_token)?;
    let outcome = match r.outcome {
        None => malformed(
            "result.outcome: none is set: expected `success`, `retryable_error`, `permanent_error` or `released`"
                .into(),
        ),
        Some(Answer::Success(s)) => success(s.result_json),
        Some(Answer::RetryableError(e)) => match e.retry_after.map(retry_after).transpose() {
            Ok(retry_after) => {
                Outcome::RetryableError { failure: failure(e.message, e.error_code, e.context_json), retry_after }
            }
            Err(why) => {
                malformed(format!("result.retryable_error.retry_after: {why}; the handler's error was: {}", e.message))
            }
        },
        Some(Answer::PermanentError(e)) => Outcome::PermanentError(failure(e.message, e.error_code, e.context_json)),
        // The session knows whether the worker drains, and clears the flag then.
        Some(Answer::Released(proto::Released {})) => Outcome::Released { delayed: true },
    };
    Ok((lease, outcome))
}

/// A result with a lease and an invalid part. It ends its own step; the worker's other steps are
/// not at fault.
fn malformed(why: String) -> Outcome {
    Outcome::PermanentError(Failure::of_server(RESULT_INVALID, why).cut())
}

fn success(json: String) -> Outcome {
    let json = if json.is_empty() {
        "null".to_owned()
    } else {
        json
    };
    match json_text::check_document(&json, MAX_RESULT_BYTES) {
        Ok(()) => Outcome::Succeeded(json),
        Err(error) => Outcome::PermanentError(Failure::of_server(
            RESULT_INVALID,
            format!("the handler's result cannot be stored: {error}"),
        )),
    }
}

fn failure(message: String, code: String, context: String) -> Failure {
    // The failure counts even if its context cannot be stored; the note states why it is missing.
    let context = match context.as_str() {
        "" => None,
        text => Some(
            match json_text::check_object(text, MAX_ERROR_CONTEXT_BYTES) {
                Ok(()) => context,
                Err(error) => {
                    let note = format!("the handler's error context was omitted: {error}");
                    serde_json::json!({ "tasker_note": note }).to_string()
                }
            },
        ),
    };
    let message = if message.is_empty() {
        "the handler gave no message".to_owned()
    } else {
        message
    };
    Failure {
        message,
        code,
        context,
    }
    .cut()
}

/// The requested delay, from zero to [`MAX_RETRY_AFTER`].
fn retry_after(d: prost_types::Duration) -> Result<Duration, String> {
    // The definition of the message forbids parts of different signs.
    let signs_differ = d.seconds.signum() * i64::from(d.nanos.signum()) < 0;
    if d.nanos.unsigned_abs() > 999_999_999 || signs_differ {
        return Err(
            "not a duration: expected nanos from 0 to 999999999, with the sign of seconds"
                .to_owned(),
        );
    }
    // A negative delay requests none.
    let asked = match (u64::try_from(d.seconds), u32::try_from(d.nanos)) {
        (Ok(seconds), Ok(nanos)) => Duration::new(seconds, nanos),
        _ => Duration::ZERO,
    };
    Ok(asked.min(MAX_RETRY_AFTER))
}

fn lease(field: &str, token: &str) -> Result<Lease, Status> {
    Lease::from_token(token).map_err(|error| invalid(field, error.to_string()))
}

fn name(field: &str, text: &str) -> Result<(), Status> {
    if text.is_empty() {
        return Err(invalid(
            field,
            format!("empty: expected 1 to {MAX_NAME_BYTES} bytes"),
        ));
    }
    Ok(optional_name(field, text)?)
}

fn count(field: &str, n: usize, min: usize, max: usize) -> Result<(), Status> {
    if (min..=max).contains(&n) {
        Ok(())
    } else {
        Err(invalid(
            field,
            format!("{n} given: expected {min} to {max}"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn register_accepts_valid_and_already_stored_names_only() {
        let worker = |handler: &str, namespace: &str| proto::Register {
            name: "a worker".into(),
            handlers: vec![handler.into()],
            namespaces: vec![namespace.into()],
            max_concurrent_steps: 1,
            ..proto::Register::default()
        };
        let register = |r: proto::Register| super::register(r, |name| name == "old name");
        for name in ["Warehouse::StepHandlers::X", "a.b-c", "old name"] {
            assert!(
                register(worker(name, "n")).is_ok() && register(worker("h", name)).is_ok(),
                "{name}"
            );
        }
        for (name, says) in [
            ("a/b", "`a/b`: the name must not contain `/`"),
            ("a b", "white space, found U+0020"),
        ] {
            for (field, r) in [
                ("handlers", worker(name, "n")),
                ("namespaces", worker("h", name)),
            ] {
                let status = register(r).unwrap_err();
                assert!(
                    status.message().starts_with(&format!("register.{field}: ")),
                    "{status:?}"
                );
                assert!(status.message().contains(says), "{status:?}");
            }
        }
    }
}
