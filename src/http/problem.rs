//! Errors as `application/problem+json` (RFC 9457). `grpc/error.rs` makes all statuses; this module
//! converts a status to the form of HTTP.

use std::time::Duration;

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// The media type of every error.
pub const PROBLEM: &str = "application/problem+json";

/// An error in the form for the client.
#[derive(Debug, Serialize)]
pub struct Problem {
    /// Every kind of problem has a `code`, and no page of its own.
    r#type: &'static str,
    title: &'static str,
    #[serde(serialize_with = "number")]
    status: StatusCode,
    /// For programs, such as `TASK_NOT_FOUND`: the reason of the gRPC status.
    code: Box<str>,
    detail: Box<str>,
    /// The errors in the request, each with its place.
    errors: Vec<Wrong>,
    #[serde(skip)]
    retry_after: Option<Duration>,
}

/// One error in a request.
#[derive(Debug, Serialize, PartialEq, Eq)]
struct Wrong {
    #[serde(flatten)]
    place: Place,
    detail: String,
}

#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum Place {
    /// A JSON pointer (RFC 6901) into the body; empty for the whole of it.
    Pointer(String),
    /// The name of a parameter in the query or the path.
    Parameter(String),
}

impl Problem {
    /// A problem without a gRPC status.
    pub fn new(status: StatusCode, code: &str, detail: impl Into<String>) -> Self {
        let title = status.canonical_reason().unwrap_or("Error");
        let (code, detail) = (code.into(), detail.into().into());
        Self {
            r#type: "about:blank",
            title,
            status,
            code,
            detail,
            errors: Vec::new(),
            retry_after: None,
        }
    }

    /// Adds a retry delay, for a temporary problem.
    pub fn retry_after(self, after: Duration) -> Self {
        Self {
            retry_after: Some(after),
            ..self
        }
    }

    /// The status of an rpc whose fields came from the body, except for `parameters`.
    pub fn of(status: &Status, parameters: &[&str]) -> Self {
        let details = status.get_error_details();
        let reason = details
            .error_info()
            .map(|info| info.reason.as_str())
            .unwrap_or_default();
        let violations = details
            .bad_request()
            .map(|bad| bad.field_violations.as_slice())
            .unwrap_or_default();
        let wrong = |v: &tonic_types::FieldViolation| {
            let (place, position) = place(&v.field, parameters);
            Wrong {
                place,
                detail: format!("{position}{}", v.description),
            }
        };
        let errors: Vec<Wrong> = violations.iter().map(wrong).collect();
        // The message of the status names the fields of the protocol.
        let detail = if errors.is_empty() {
            status.message().to_owned()
        } else {
            in_words(&errors)
        };
        Self {
            errors,
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            ..Self::new(http_status(status.code()), reason, detail)
        }
    }

    /// The schema of every error, for the OpenAPI document.
    pub fn schema() -> Value {
        let text = |description: &str| json!({"type": "string", "description": description});
        json!({
            "type": "object",
            "description": "An error (RFC 9457).",
            "required": ["type", "title", "status", "code", "detail", "errors"],
            "properties": {
                "type": text("Always about:blank: the code identifies the problem."),
                "title": text("The reason phrase of the HTTP status."),
                "status": {"type": "integer", "description": "The HTTP status."},
                "code": text("The code for programs, such as TASK_NOT_FOUND."),
                "detail": text("For people."),
                "errors": {"type": "array", "description": "The violations of the request, by place.", "items": {
                    "type": "object",
                    "required": ["detail"],
                    "properties": {
                        "pointer": text("JSON pointer (RFC 6901) into the body; empty for the whole of it."),
                        "parameter": text("Name of the parameter in the query or the path."),
                        "detail": text("The violation and the expected value."),
                    },
                }},
            },
        })
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let text = serde_json::to_string(&self).unwrap_or_default();
        let mut response = (self.status, [(header::CONTENT_TYPE, PROBLEM)], text).into_response();
        if let Some(after) = self.retry_after {
            // The header has whole seconds, and zero would mean at once.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }
}

/// The first errors in a sentence for people.
fn in_words(errors: &[Wrong]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<String> = errors.iter().take(SHOWN).map(in_word).collect();
    let more = if errors.len() > SHOWN {
        "; `errors` has more"
    } else {
        ""
    };
    shown.join("; ") + more
}

fn in_word(Wrong { place, detail }: &Wrong) -> String {
    match place {
        Place::Pointer(pointer) if pointer.is_empty() => detail.clone(),
        Place::Pointer(name) | Place::Parameter(name) => {
            format!("{}: {detail}", name.trim_start_matches('/'))
        }
    }
}

/// The HTTP status of each code of gRPC.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::InvalidArgument | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::FailedPrecondition | Code::Aborted => StatusCode::CONFLICT,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::Cancelled | Code::Unknown | Code::Internal | Code::DataLoss => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

/// The place of a violated field in a request of HTTP, and its position in a text. Fields have the
/// names of the protocol, followed by a JSON pointer into a document (`context_json/email`) or by
/// line and column (`yaml:3:5`); an error in the body itself already has a pointer. A dot leads
/// into a message, and an index in brackets into a list.
fn place(field: &str, parameters: &[&str]) -> (Place, String) {
    // The field ends where a pointer into its document, or a position in its text, begins.
    let end = field.find(['/', ':']).unwrap_or(field.len());
    let (name, rest) = field.split_at(end);
    if name.is_empty() {
        return (Place::Pointer(rest.to_owned()), String::new());
    }
    if parameters.contains(&name) {
        return (Place::Parameter(name.to_owned()), String::new());
    }
    // In HTTP a document is nested under its name without `_json`.
    let name = name
        .trim_end_matches("_json")
        .replace(['.', '['], "/")
        .replace(']', "");
    match rest
        .strip_prefix(':')
        .and_then(|position| position.split_once(':'))
    {
        Some((line, column)) => (
            Place::Pointer(format!("/{name}")),
            format!("line {line}, column {column}: "),
        ),
        None => (Place::Pointer(format!("/{name}{rest}")), String::new()),
    }
}

fn number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::error;

    #[test]
    fn field_violation_becomes_a_pointer_into_the_request() {
        let pointer = |field: &str| match place(field, &["page_size"]) {
            (Place::Pointer(pointer), position) => format!("{pointer} {position}"),
            (Place::Parameter(name), _) => format!("?{name}"),
        };
        assert_eq!(pointer("context_json/a~1b/0"), "/context/a~1b/0 ");
        assert_eq!(
            (
                pointer("priority").as_str(),
                pointer("policy.probes").as_str()
            ),
            ("/priority ", "/policy/probes ")
        );
        assert_eq!(
            pointer("tasks[2].context_json/email"),
            "/tasks/2/context/email "
        );
        assert_eq!(pointer("yaml:3:5"), "/yaml line 3, column 5: ");
        assert_eq!(pointer("page_size"), "?page_size");
        assert_eq!(
            (pointer("/x_json").as_str(), pointer("").as_str()),
            ("/x_json ", " ")
        );
    }

    #[test]
    fn message_uses_the_field_names_of_http() {
        let violated = |field: &str| crate::engine::Violated {
            field: field.into(),
            message: "wrong".into(),
        };
        let detail = |fields: &[&str]| {
            let all: Vec<_> = fields.iter().map(|field| violated(field)).collect();
            Problem::of(&error::violations(&all), &["page_size"]).detail
        };
        assert_eq!(
            &*detail(&["context_json/email", "page_size"]),
            "context/email: wrong; page_size: wrong"
        );
        assert_eq!(&*detail(&[""]), "wrong");
        assert_eq!(error::violations(&[violated("")]).message(), "wrong");
        assert_eq!(
            &*detail(&["a", "b", "c", "d"]),
            "a: wrong; b: wrong; c: wrong; `errors` has more"
        );
    }

    #[test]
    fn problem_keeps_reason_message_and_retry_delay() {
        let response = Problem::of(&error::unavailable("gone"), &[]).into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()["retry-after"], "1");
        let problem = Problem::of(
            &error::status(Code::NotFound, "TASK_NOT_FOUND", "there is no task"),
            &[],
        );
        assert_eq!(
            serde_json::to_value(&problem).unwrap(),
            json!({"type": "about:blank", "title": "Not Found", "status": 404, "code": "TASK_NOT_FOUND",
                   "detail": "there is no task", "errors": []})
        );
    }
}
