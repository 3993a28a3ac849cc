//! Submits of tasks: from the request to a submission of the engine, and back.

use std::time::{Duration, SystemTime};

use tasker_template::DEFAULT_NAMESPACE;
use tonic::metadata::MetadataMap;
use uuid::Uuid;

use super::convert;
use crate::{
    engine::{Submission, Submitted, Violated},
    proto,
};

/// Bound on the distance of `not_before`: a year.
const MAX_NOT_BEFORE: Duration = Duration::from_secs(366 * 24 * 60 * 60);

pub fn submission(
    r: proto::SubmitTaskRequest,
    traceparent: Option<String>,
) -> Result<Submission, Violated> {
    let not_before = not_before(r.not_before)?;
    if r.task_name.is_empty() {
        let message = "empty: expected the name of a registered template".to_owned();
        return Err(Violated {
            field: "task_name".into(),
            message,
        });
    }
    convert::name("task_name", &r.task_name)?;
    convert::name("namespace", &r.namespace)?;
    Ok(Submission {
        namespace: if r.namespace.is_empty() {
            DEFAULT_NAMESPACE.to_owned()
        } else {
            r.namespace
        },
        task_name: r.task_name,
        version: convert::version(&r.version)?,
        context: r.context_json,
        priority: r.priority,
        idempotency_key: r.idempotency_key,
        correlation_id: r.correlation_id,
        annotations: r.annotations_json,
        traceparent,
        not_before,
    })
}

fn not_before(at: Option<prost_types::Timestamp>) -> Result<Option<SystemTime>, Violated> {
    let Some(at) = convert::time("not_before", at)? else {
        return Ok(None);
    };
    // By the time of a new id, which has this server's clock, like the submit's; the database's
    // clock decides when it starts.
    let now = Uuid::now_v7()
        .get_timestamp()
        .map_or((0, 0), |stamp| stamp.to_unix());
    let latest = SystemTime::UNIX_EPOCH + Duration::from_secs(now.0) + MAX_NOT_BEFORE;
    if at > latest {
        return Err(Violated {
            field: "not_before".into(),
            message: "more than a year ahead".into(),
        });
    }
    Ok(Some(at))
}

pub fn response(s: Submitted) -> proto::SubmitTaskResponse {
    proto::SubmitTaskResponse {
        task_id: s.task_id.to_string(),
        created: s.created,
        correlation_id: s.correlation_id,
        version: s.version,
    }
}

/// The W3C trace context of the caller, if it is valid; the standard asks to ignore any other.
pub fn traceparent(metadata: &MetadataMap) -> Option<String> {
    let text = metadata.get("traceparent")?.to_str().ok()?;
    is_traceparent(text).then(|| text.to_owned())
}

fn is_traceparent(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [version, trace, span, flags] = parts[..] else {
        return false;
    };
    // The W3C form allows lower case only.
    let hex = |part: &&str| {
        part.bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    let has_form = [version.len(), trace.len(), span.len(), flags.len()] == [2, 32, 16, 2];
    // The standard excludes this version and ids of zeros only.
    let is_zero = |id: &str| id.bytes().all(|b| b == b'0');
    has_form && parts.iter().all(hex) && version != "ff" && !is_zero(trace) && !is_zero(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traceparent_that_the_standard_excludes_is_ignored() {
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let of = |version: &str, trace: &str, span: &str| format!("{version}-{trace}-{span}-01");
        for valid in [of("00", trace, span), of("fe", trace, span)] {
            assert!(is_traceparent(&valid), "{valid}");
        }
        for invalid in [
            of("ff", trace, span),
            of("00", &"0".repeat(32), span),
            of("00", trace, &"0".repeat(16)),
            of("00", &trace.to_uppercase(), span),
            of("0", trace, span),
            format!("00-{trace}-{span}"),
            format!("00-{trace}-{span}-01-more"),
            String::new(),
        ] {
            assert!(!is_traceparent(&invalid), "{invalid}");
        }
    }
}
