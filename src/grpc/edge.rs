//! Answers to requests that never reach an rpc: bytes that are no message of ours, an rpc that does not exist, and HTTP
//! that is not gRPC. tonic's own answers to these blame the server, or say nothing.

use axum::{
    body::Body,
    extract::Request,
    http::{StatusCode, Version, header::CONTENT_TYPE},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use tonic::{Code, Status};

use super::error;

/// Around every rpc. Our own statuses carry details; a status without them is one that tonic made of the request.
pub async fn guard(request: Request, next: Next) -> Response {
    if !is_grpc(&request) {
        let message = "this path is an rpc: send gRPC (content-type `application/grpc`) over HTTP/2\n";
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, message).into_response();
    }
    if request.version() < Version::HTTP_2 && !is_grpc_web(&request) {
        return (StatusCode::HTTP_VERSION_NOT_SUPPORTED, "gRPC needs HTTP/2\n").into_response();
    }
    let uri = request.uri().clone();
    let response = next.run(request).await;
    let headers = response.headers();
    if !headers.contains_key(Status::GRPC_STATUS) || headers.contains_key(Status::GRPC_STATUS_DETAILS) {
        return response;
    }
    match Status::from_header_map(headers) {
        Some(status) if status.code() == Code::Unimplemented && status.message().is_empty() => no_rpc(uri.path()),
        Some(status) if is_unreadable(&status) => unreadable(status).into_http(),
        _ => response,
    }
}

/// Wherever no rpc and no page is.
pub async fn nothing(request: Request) -> Response {
    if is_grpc(&request) {
        return no_rpc(request.uri().path());
    }
    let message = "there is nothing at this path: this port serves gRPC, and /livez and /readyz over HTTP\n";
    (StatusCode::NOT_FOUND, message).into_response()
}

/// What tonic says of a message it could not read, in the codes of gRPC: the sender is to blame, not the server. Other
/// statuses stay as they are.
pub fn unreadable(status: Status) -> Status {
    match status.code() {
        Code::OutOfRange => error::status(
            Code::ResourceExhausted,
            "MESSAGE_TOO_LARGE",
            format!("the message is too large: {}", status.message()),
        ),
        Code::Internal => {
            let message = format!("expected whole, uncompressed protobuf messages of this rpc: {}", status.message());
            error::status(Code::InvalidArgument, "MESSAGE_UNREADABLE", message)
        }
        _ => status,
    }
}

fn is_unreadable(status: &Status) -> bool {
    matches!(status.code(), Code::OutOfRange | Code::Internal)
}

fn no_rpc(path: &str) -> Response {
    let message = format!("there is no rpc `{path}`: server reflection lists those there are");
    error::status(Code::Unimplemented, "NO_SUCH_RPC", message).into_http::<Body>()
}

fn is_grpc(request: &Request) -> bool {
    content_type(request).starts_with(b"application/grpc")
}

fn is_grpc_web(request: &Request) -> bool {
    content_type(request).starts_with(b"application/grpc-web")
}

fn content_type(request: &Request) -> &[u8] {
    request.headers().get(CONTENT_TYPE).map_or(b"", |value| value.as_bytes())
}
