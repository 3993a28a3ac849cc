//! The registration gateway (port 3000), which browsers and phones call.
//!
//! It stores nothing: a registration is a task, and its state is the task's.

use std::{fmt, sync::Arc};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Map, Value, json};
use tasker_worker::proto::{ExplainTaskRequest, GetTaskRequest, SubmitTaskRequest};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    control_plane::{ControlPlane, NAMESPACE, TASK_NAME, is_transient},
    status,
};

/// The fields of a registration. The template validates their shapes; any other field is refused
/// here.
const FIELDS: [&str; 6] = [
    "email",
    "name",
    "plan",
    "phone",
    "marketing_consent",
    "correlation_id",
];

/// The longest `Idempotency-Key` and `X-Correlation-Id`, in bytes.
const MAX_KEY_BYTES: usize = 255;

/// The routes over one control plane.
pub fn router(control_plane: ControlPlane) -> Router {
    Router::new()
        .route("/users/register", post(register))
        .route(
            "/users/registration_status/{task_id}",
            get(registration_status),
        )
        .with_state(Arc::new(control_plane))
}

/// An error answer of the gateway.
struct Refusal {
    status: StatusCode,
    body: Value,
}

impl Refusal {
    fn new(status: StatusCode, code: &str, message: impl fmt::Display) -> Self {
        Self {
            status,
            body: json!({ "error": code, "message": message.to_string() }),
        }
    }

    fn malformed(message: impl fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "MALFORMED", message)
    }

    /// 422: each problem by field.
    fn invalid(message: &str, violations: impl Iterator<Item = (String, String)>) -> Self {
        let mut refusal = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "INVALID", message);
        let violations = violations
            .map(|(field, description)| json!({ "field": field, "description": description }));
        refusal.body["field_violations"] = violations.collect();
        refusal
    }

    /// Converts a refusal of the control plane to HTTP, for the codes that mean the same in every
    /// call.
    fn from_control_plane(status: &Status) -> Self {
        match status.code() {
            code if is_transient(code) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "UNAVAILABLE",
                status.message(),
            ),
            _ => Self::new(StatusCode::BAD_GATEWAY, "CONTROL_PLANE", status.message()),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let retry_after =
            (self.status == StatusCode::SERVICE_UNAVAILABLE).then_some([(RETRY_AFTER, "1")]);
        (self.status, retry_after, Json(self.body)).into_response()
    }
}

/// 202 once the registration is stored; 400 for a body that is not JSON, 422 for one that does not
/// fit, with each problem by field.
///
/// A client that may repeat a request sends an `Idempotency-Key`: the same key with the same data
/// is the same registration, with other data it is refused (409). The e-mail is no such key: a
/// client that corrects a typing error in the name and asks again starts a new registration, and
/// the user service decides whether it conflicts.
async fn register(
    State(control_plane): State<Arc<ControlPlane>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let request = submit_request(&headers, &body)?;
    let submitted = control_plane
        .tasks
        .clone()
        .submit_task(request)
        .await
        .map_err(|status| not_submitted(&status))?;
    let submitted = submitted.into_inner();
    let answer = json!({
        "task_id": submitted.task_id,
        "status_url": format!("/users/registration_status/{}", submitted.task_id),
        "correlation_id": submitted.correlation_id,
    });
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

/// The state of the registration and of each step, with the reasons of its waits while it is not
/// final; 404 for an unknown id, 400 for a malformed one.
async fn registration_status(
    State(control_plane): State<Arc<ControlPlane>>,
    Path(task_id): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let mut tasks = control_plane.tasks.clone();
    let found = tasks
        .get_task(GetTaskRequest {
            task_id: task_id.clone(),
        })
        .await;
    let found = found.map_err(|status| not_found(&status))?.into_inner();
    let why = if status::is_final(&found) {
        None
    } else {
        let explained = tasks.explain_task(ExplainTaskRequest { task_id }).await;
        Some(explained.map_err(|status| not_found(&status))?.into_inner())
    };
    Ok(Json(status::describe(&found, why.as_ref())))
}

fn not_found(status: &Status) -> Refusal {
    match status.code() {
        Code::InvalidArgument => Refusal::malformed(status.message()),
        Code::NotFound => Refusal::new(StatusCode::NOT_FOUND, "NOT_FOUND", status.message()),
        _ => Refusal::from_control_plane(status),
    }
}

fn submit_request(headers: &HeaderMap, body: &[u8]) -> Result<SubmitTaskRequest, Refusal> {
    let fields: Map<String, Value> = serde_json::from_slice(body)
        .map_err(|error| Refusal::malformed(format!("not a JSON object: {error}")))?;
    let unknown: Vec<_> = fields
        .keys()
        .filter(|name| !FIELDS.contains(&name.as_str()))
        .collect();
    if !unknown.is_empty() {
        let violations = unknown
            .into_iter()
            .map(|name| (format!("/{name}"), "unknown field".to_owned()));
        return Err(Refusal::invalid(
            "the registration has unknown fields",
            violations,
        ));
    }
    Ok(SubmitTaskRequest {
        namespace: NAMESPACE.to_owned(),
        task_name: TASK_NAME.to_owned(),
        context_json: Value::Object(fields).to_string(),
        idempotency_key: header(headers, "idempotency-key")?,
        correlation_id: header(headers, "x-correlation-id")?,
        ..SubmitTaskRequest::default()
    })
}

/// A header's value; empty if it is absent.
fn header(headers: &HeaderMap, name: &str) -> Result<String, Refusal> {
    let Some(value) = headers.get(name) else {
        return Ok(String::new());
    };
    match value.to_str() {
        Ok(text) if !text.is_empty() && text.len() <= MAX_KEY_BYTES => Ok(text.to_owned()),
        _ => Err(Refusal::malformed(format!(
            "{name}: 1 to {MAX_KEY_BYTES} printable ASCII characters were expected"
        ))),
    }
}

fn not_submitted(status: &Status) -> Refusal {
    match status.code() {
        Code::InvalidArgument => {
            let violations = status
                .get_details_bad_request()
                .map(|bad| bad.field_violations)
                .unwrap_or_default();
            let violations = violations
                .into_iter()
                .map(|violation| (in_body(&violation.field), violation.description));
            Refusal::invalid("the registration does not fit its schema", violations)
        }
        Code::AlreadyExists => Refusal::new(
            StatusCode::CONFLICT,
            "IDEMPOTENCY_KEY_REUSED",
            status.message(),
        ),
        _ => Refusal::from_control_plane(status),
    }
}

/// The place of the control plane's field in the client's own request, whose body was the context.
fn in_body(field: &str) -> String {
    field
        .strip_prefix("context_json")
        .unwrap_or(field)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(headers: &[(&'static str, &'static str)], body: &str) -> (StatusCode, Value) {
        let headers = headers
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
        let refusal = submit_request(&headers.collect(), body.as_bytes()).expect_err("a refusal");
        (refusal.status, refusal.body)
    }

    #[test]
    fn registration_is_submitted_unchanged() {
        let body = r#"{"name":7,"email":"a@example.com"}"#;
        let headers =
            HeaderMap::from_iter([("idempotency-key".parse().unwrap(), "k1".parse().unwrap())]);
        let request =
            submit_request(&headers, body.as_bytes()).unwrap_or_else(|_| panic!("refused"));
        assert_eq!(
            (
                request.context_json.as_str(),
                request.idempotency_key.as_str()
            ),
            (body, "k1")
        );
        assert_eq!(request.correlation_id, "", "the control plane makes one");
    }

    #[test]
    fn invalid_registration_is_refused() {
        for body in ["", "{", "[]", "7", r#"{"email":}"#] {
            assert_eq!(refused(&[], body).0, StatusCode::BAD_REQUEST, "{body}");
        }
        let (status, body) = refused(&[], r#"{"email":"a@example.com","admin":true,"role":"x"}"#);
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
        let fields = body["field_violations"]
            .as_array()
            .unwrap()
            .iter()
            .map(|violation| &violation["field"]);
        assert_eq!(fields.collect::<Vec<_>>(), ["/admin", "/role"]);
        assert_eq!(
            refused(&[("idempotency-key", "")], "{}").0,
            StatusCode::BAD_REQUEST
        );
    }

    #[test]
    fn reused_key_and_absent_control_plane_have_distinct_codes() {
        assert_eq!(
            not_submitted(&Status::already_exists("used")).status,
            StatusCode::CONFLICT
        );
        assert_eq!(
            not_submitted(&Status::unavailable("gone")).status,
            StatusCode::SERVICE_UNAVAILABLE
        );
        assert_eq!(
            not_submitted(&Status::not_found("no template")).status,
            StatusCode::BAD_GATEWAY
        );
    }
}
