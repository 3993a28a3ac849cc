//! Answers to requests that do not reach an rpc: unreadable messages, unknown rpcs, and HTTP that
//! is not gRPC. tonic's own answers to these blame the server, or state no reason.

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{self, HeaderValue, StatusCode, Version, header::CONTENT_TYPE},
    middleware::{Next, from_fn},
    response::{IntoResponse as _, Response},
};
use tonic::{Code, Status};
use tonic_web::GrpcWebLayer;
use tower::{Layer as _, ServiceExt as _, service_fn};

use super::{
    error,
    frames::{RequestBody, ResponseBody},
    room::Room,
};

/// The headers for the compression of a body's messages, and for the compression accepted in the
/// answer.
const GRPC_ENCODING: &str = "grpc-encoding";
const GRPC_ACCEPT_ENCODING: &str = "grpc-accept-encoding";
/// Rpcs with a stream of messages from the client.
const CLIENT_STREAMS: [&str; 3] = [
    "/tasker.v1.WorkerService/Work",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// The rpcs, with answers to requests that do not reach them; also over gRPC-Web, for browsers.
pub fn guarded(rpcs: Router, room: Room) -> Router {
    let transfer = move |request: Request, next: Next| transfer(room.clone(), request, next);
    // The layer added last runs first: `enter`, `web`, `answer`, `transfer`. A `route_layer` covers
    // the paths of rpcs only, so all other paths reach the fallback of the port.
    rpcs.route_layer(from_fn(transfer))
        .route_layer(from_fn(answer))
        .route_layer(from_fn(web))
        .route_layer(from_fn(enter))
}

/// Admits gRPC requests.
async fn enter(request: Request, next: Next) -> Response {
    if !is_grpc(&request) {
        let message = "this path is an rpc: send gRPC (content-type `application/grpc`) over HTTP/2, or gRPC-Web\n";
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, message).into_response();
    }
    if request.version() < Version::HTTP_2 && !is_grpc_web(&request) {
        return (
            StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            "gRPC needs HTTP/2, or gRPC-Web\n",
        )
            .into_response();
    }
    next.run(request).await
}

/// Converts gRPC-Web to gRPC and back.
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
    let Ok(response) = GrpcWebLayer::new()
        .layer(inner)
        .oneshot(request.map(tonic::body::Body::new))
        .await;
    response.map(Body::new)
}

/// Bounds the request body, decompresses it, and compresses the answer for clients that accept it.
/// tonic handles uncompressed messages only.
async fn transfer(room: Room, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    // Removed: tonic, which is built without compression, would refuse the header.
    let encoding = parts.headers.remove(GRPC_ENCODING);
    let is_packed = match encoding
        .as_ref()
        .map_or(&b"identity"[..], HeaderValue::as_bytes)
    {
        b"identity" => false,
        b"gzip" => true,
        other => return no_encoding(other),
    };
    let wants_packed = parts
        .headers
        .get(GRPC_ACCEPT_ENCODING)
        .is_some_and(|accepted| {
            accepted
                .as_bytes()
                .split(|byte| *byte == b',')
                .any(|encoding| encoding.trim_ascii() == b"gzip")
        });
    let is_stream = CLIENT_STREAMS.contains(&parts.uri.path());
    let received = RequestBody::new(body, &room, is_stream, is_packed);
    let taken = received.taken();
    let response = next
        .run(Request::from_parts(parts, Body::new(received)))
        .await;
    // The call has read its request. The body of a stream has a copy of the account for itself.
    drop(taken);
    // A status in the headers means an answer without messages.
    if !wants_packed || response.headers().contains_key(Status::GRPC_STATUS) {
        return response;
    }
    let mut response = response.map(|body| Body::new(ResponseBody::new(body)));
    response
        .headers_mut()
        .insert(GRPC_ENCODING, HeaderValue::from_static("gzip"));
    response
}

fn no_encoding(other: &[u8]) -> Response {
    let message = format!(
        "grpc-encoding `{:.80}` is not supported: expected gzip or identity",
        String::from_utf8_lossy(other)
    );
    let status = error::status(Code::Unimplemented, "ENCODING_NOT_SUPPORTED", message);
    let mut response = status.into_http::<Body>();
    response.headers_mut().insert(
        GRPC_ACCEPT_ENCODING,
        HeaderValue::from_static("gzip,identity"),
    );
    response
}

/// Our own statuses have details; a status without them was made by tonic from the request.
async fn answer(request: Request, next: Next) -> Response {
    let uri = request.uri().clone();
    let response = next.run(request).await;
    let headers = response.headers();
    // A status that follows messages is in the trailers: such a call has read its request.
    if !headers.contains_key(Status::GRPC_STATUS)
        || headers.contains_key(Status::GRPC_STATUS_DETAILS)
    {
        return response;
    }
    match Status::from_header_map(headers) {
        // The answer of tonic's router to an unknown method.
        Some(status) if status.code() == Code::Unimplemented && status.message().is_empty() => {
            no_rpc(uri.path())
        }
        Some(status) if is_unreadable(&status) => unreadable(status).into_http(),
        _ => response,
    }
}

/// Converts tonic's status for an unreadable message to the codes of gRPC: the sender is to blame,
/// not the server. Other statuses stay as they are.
pub fn unreadable(status: Status) -> Status {
    match status.code() {
        Code::OutOfRange => error::status(
            Code::ResourceExhausted,
            "MESSAGE_TOO_LARGE",
            format!("the message is too large: {}", status.message()),
        ),
        Code::Internal => {
            let message = format!(
                "expected whole protobuf messages of this rpc: {}",
                status.message()
            );
            error::status(Code::InvalidArgument, "MESSAGE_UNREADABLE", message)
        }
        _ => status,
    }
}

fn is_unreadable(status: &Status) -> bool {
    matches!(status.code(), Code::OutOfRange | Code::Internal)
}

/// The answer to a path without an rpc.
pub fn no_rpc(path: &str) -> Response {
    let message = format!("there is no rpc `{path}`: server reflection lists the rpcs");
    error::status(Code::Unimplemented, "NO_SUCH_RPC", message).into_http::<Body>()
}

/// Whether the request addresses an rpc.
pub fn is_grpc(request: &Request) -> bool {
    content_type(request).starts_with(b"application/grpc")
}

/// Whether the request is gRPC as only a program can send it, and neither gRPC-Web nor another type
/// with a similar name.
pub fn is_native(request: &Request) -> bool {
    let rest = content_type(request).strip_prefix(b"application/grpc");
    request.version() == Version::HTTP_2
        && rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

fn is_grpc_web(request: &Request) -> bool {
    content_type(request).starts_with(b"application/grpc-web")
}

fn content_type(request: &Request) -> &[u8] {
    request
        .headers()
        .get(CONTENT_TYPE)
        .map_or(b"", |value| value.as_bytes())
}

#[cfg(test)]
mod tests {
    use prost_reflect::DescriptorPool;

    use super::*;
    use crate::proto;

    #[test]
    fn every_streaming_rpc_is_listed() {
        let mut pool = DescriptorPool::decode(proto::DESCRIPTORS).unwrap();
        for set in [
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ] {
            pool.decode_file_descriptor_set(set).unwrap();
        }
        let mut streams: Vec<String> = pool
            .services()
            .flat_map(|service| service.methods().collect::<Vec<_>>())
            .filter(prost_reflect::MethodDescriptor::is_client_streaming)
            .map(|method| format!("/{}/{}", method.parent_service().full_name(), method.name()))
            .collect();
        streams.sort();
        let mut known = CLIENT_STREAMS.map(str::to_owned);
        known.sort();
        assert_eq!(streams, known);
    }
}
