//! The registration gateway (port 3000): what browsers and phones talk to.
//!
//! It stores nothing: a registration is a task, and its state is the task's.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Map, Value, json};
use tasker::proto::{GetTaskRequest, SubmitTaskRequest};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{
    control_plane::{ControlPlane, NAMESPACE, TASK_NAME, is_transient},
    status,
};

/// What a registration consists of. Their shapes are the template's to check; any other field is refused here.
const FIELDS: [&str; 6] = ["email", "name", "plan", "phone", "marketing_consent", "correlation_id"];

/// The longest `Idempotency-Key` and `X-Correlation-Id`, in bytes.
const MAX_KEY_BYTES: usize = 255;

/// The routes, on one control plane.
pub fn router(control_plane: ControlPlane) -> Router {
    Router::new()
        .route("/users/register", post(register))
        .route("/users/registration_status/{task_id}", get(registration_status))
        .with_state(Arc::new(control_plane))
}

/// 202 once the registration is stored; 400 for what is not JSON, 422 for what does not fit, each problem by field.
///
/// A client that may ask twice sends an `Idempotency-Key`: the same key with the same data is the same registration, with
/// other data it is refused (409). The e-mail is no such key: who corrects a typing error in the name and asks again means
/// a new registration, and the user service says whether it conflicts.
async fn register(State(control_plane): State<Arc<ControlPlane>>, headers: HeaderMap, body: Bytes) -> Response {
    let request = match submit_request(&headers, &body) {
        Ok(request) => request,
        Err(refusal) => return refusal,
    };
    match control_plane.tasks.clone().submit_task(request).await {
        Ok(response) => {
            let submitted = response.into_inner();
            let answer = json!({
                "task_id": submitted.task_id,
                "status_url": format!("/users/registration_status/{}", submitted.task_id),
                "correlation_id": submitted.correlation_id,
            });
            (StatusCode::ACCEPTED, Json(answer)).into_response()
        }
        Err(status) => refused(&status, StatusCode::UNPROCESSABLE_ENTITY),
    }
}

/// The registration's state and each step's; 404 for an unknown id, 400 for what is no id.
async fn registration_status(State(control_plane): State<Arc<ControlPlane>>, Path(task_id): Path<String>) -> Response {
    match control_plane.tasks.clone().get_task(GetTaskRequest { task_id }).await {
        Ok(found) => Json(status::describe(&found.into_inner())).into_response(),
        Err(status) => refused(&status, StatusCode::BAD_REQUEST),
    }
}

fn submit_request(headers: &HeaderMap, body: &[u8]) -> Result<SubmitTaskRequest, Response> {
    let fields: Map<String, Value> = serde_json::from_slice(body)
        .map_err(|error| problem(StatusCode::BAD_REQUEST, "MALFORMED", &format!("not a JSON object: {error}")))?;
    let unknown = fields.keys().filter(|name| !FIELDS.contains(&name.as_str()));
    let violations: Vec<_> = unknown
        .map(|name| json!({ "field": format!("/{name}"), "description": "unknown field" }))
        .collect();
    if !violations.is_empty() {
        return Err(invalid(StatusCode::UNPROCESSABLE_ENTITY, "the registration does not fit", &violations));
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

/// A header's value; empty when it is not there.
fn header(headers: &HeaderMap, name: &str) -> Result<String, Response> {
    let Some(value) = headers.get(name) else { return Ok(String::new()) };
    match value.to_str() {
        Ok(text) if !text.is_empty() && text.len() <= MAX_KEY_BYTES => Ok(text.to_owned()),
        _ => Err(problem(
            StatusCode::BAD_REQUEST,
            "MALFORMED",
            &format!("{name}: 1 to {MAX_KEY_BYTES} printable ASCII characters were expected"),
        )),
    }
}

/// The control plane's refusal in HTTP's words; `when_invalid` is the status for an invalid argument.
fn refused(status: &Status, when_invalid: StatusCode) -> Response {
    match status.code() {
        Code::InvalidArgument => {
            let details = status.get_details_bad_request().map(|bad| bad.field_violations).unwrap_or_default();
            let violations: Vec<_> = details
                .into_iter()
                .map(|violation| json!({ "field": violation.field, "description": violation.description }))
                .collect();
            invalid(when_invalid, status.message(), &violations)
        }
        Code::NotFound => problem(StatusCode::NOT_FOUND, "NOT_FOUND", status.message()),
        Code::AlreadyExists => problem(StatusCode::CONFLICT, "IDEMPOTENCY_KEY_REUSED", status.message()),
        code if is_transient(code) => {
            let unavailable = problem(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", status.message());
            ([(RETRY_AFTER, "1")], unavailable).into_response()
        }
        _ => problem(StatusCode::BAD_GATEWAY, "CONTROL_PLANE", status.message()),
    }
}

fn problem(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(json!({ "error": code, "message": message }))).into_response()
}

fn invalid(status: StatusCode, message: &str, violations: &[Value]) -> Response {
    let body = json!({ "error": "INVALID", "message": message, "field_violations": violations });
    (status, Json(body)).into_response()
}
