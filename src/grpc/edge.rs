//! Answers to requests that never reach an rpc: bytes that are no message of ours, an rpc that does not exist, and HTTP
//! that is not gRPC. tonic's own answers to these blame the server, or say nothing.

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{self, StatusCode, Version, header::CONTENT_TYPE},
    middleware::{Next, from_fn},
    response::{IntoResponse as _, Response},
};
use tonic::{Code, Status};
use tonic_web::GrpcWebLayer;
use tower::{Layer as _, ServiceExt as _, service_fn};

use super::error;

/// The rpcs, with their answers to what never reaches them; also over gRPC-Web, for browsers.
pub fn guarded(rpcs: Router) -> Router {
    rpcs.route_layer(from_fn(answer)).route_layer(from_fn(web)).route_layer(from_fn(enter))
}

/// Lets in what is gRPC.
async fn enter(request: Request, next: Next) -> Response {
    if !is_grpc(&request) {
        let message = "this path is an rpc: send gRPC (content-type `application/grpc`) over HTTP/2, or gRPC-Web\n";
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, message).into_response();
    }
    if request.version() < Version::HTTP_2 && !is_grpc_web(&request) {
        return (StatusCode::HTTP_VERSION_NOT_SUPPORTED, "gRPC needs HTTP/2, or gRPC-Web\n").into_response();
    }
    next.run(request).await
}

/// Turns gRPC-Web into gRPC and back.
async fn web(request: Request, next: Next) -> Response {
    if !is_grpc_web(&request) {
        return next.run(request).await;
    }
    let inner = service_fn(move |request: http::Request<tonic::body::Body>| {
        let next = next.clone();
        async move {
            let response = next.run(request.map(Body::new)).await;
            Ok::<_, std::convert::Infallible>(response.map(tonic::body::Body::new))
        }
    });
    let Ok(response) = GrpcWebLayer::new().layer(inner).oneshot(request.map(tonic::body::Body::new)).await;
    response.map(Body::new)
}

/// Our own statuses carry details; a status without them is one that tonic made of the request.
async fn answer(request: Request, next: Next) -> Response {
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

/// Wherever no rpc is.
pub fn no_rpc(path: &str) -> Response {
    let message = format!("there is no rpc `{path}`: server reflection lists those there are");
    error::status(Code::Unimplemented, "NO_SUCH_RPC", message).into_http::<Body>()
}

/// Whether the request is meant for an rpc.
pub fn is_grpc(request: &Request) -> bool {
    content_type(request).starts_with(b"application/grpc")
}

/// Whether the request is gRPC as only a program can send it, and neither gRPC-Web nor another type with a similar name.
pub fn is_native(request: &Request) -> bool {
    let rest = content_type(request).strip_prefix(b"application/grpc");
    request.version() == Version::HTTP_2 && rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

fn is_grpc_web(request: &Request) -> bool {
    content_type(request).starts_with(b"application/grpc-web")
}

fn content_type(request: &Request) -> &[u8] {
    request.headers().get(CONTENT_TYPE).map_or(b"", |value| value.as_bytes())
}
