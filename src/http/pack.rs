//! Compresses answers by gzip for clients that accept it: all except tiny ones and server-sent
//! events, which must not wait for more data.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, header},
    middleware::Next,
    response::Response,
};
use http_body::Frame;

use crate::grpc::gzip::{Deflate, MIN_BYTES};

/// Compresses the answer if the client accepts gzip.
pub async fn packed(request: Request, next: Next) -> Response {
    // Before the call, which consumes the request.
    let wanted = request.method() != Method::HEAD && takes_gzip(request.headers());
    let mut response = next.run(request).await;
    let exact = response
        .body()
        .size_hint()
        .exact()
        .and_then(|bytes| usize::try_from(bytes).ok());
    // A body of unknown length is a stream of events, whose compression would delay each event
    // until the buffer is full.
    if exact.is_none_or(|bytes| bytes < MIN_BYTES)
        || response.headers().contains_key(header::CONTENT_ENCODING)
    {
        return response;
    }
    // Also without compression: a cache must not serve one form to clients that asked for the
    // other.
    response
        .headers_mut()
        .append(header::VARY, HeaderValue::from_static("accept-encoding"));
    if !wanted {
        return response;
    }
    // The length of the compressed body is not known yet.
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response
        .headers_mut()
        .insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    response.map(|body| Body::new(Packing::Plain(body)))
}

/// Whether the client accepts gzip, with a weight above zero.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let accepted: Vec<&str> = headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect();
    // The most specific name decides; `*` counts only for encodings that the client does not list.
    let mut named = ["gzip", "x-gzip", "*"].into_iter();
    named
        .find_map(|name| is_accepted(&accepted, name))
        .unwrap_or(false)
}

/// Whether an encoding has a weight above zero; none if it is not named.
fn is_accepted(accepted: &[&str], name: &str) -> Option<bool> {
    let mut all = accepted.iter().flat_map(|value| value.split(','));
    all.find_map(|one| {
        let (encoding, parameters) = one.split_once(';').unwrap_or((one, ""));
        let is_named = encoding.trim().eq_ignore_ascii_case(name);
        // A weight that cannot be read counts as zero: the plain answer is always right.
        is_named.then(|| weight(parameters).is_none_or(|q| q.parse::<f32>().is_ok_and(|q| q > 0.0)))
    })
}

/// The text of the weight `q=…`, whose name has no case.
fn weight(parameters: &str) -> Option<&str> {
    let (name, weight) = parameters.trim().split_once('=')?;
    name.eq_ignore_ascii_case("q").then_some(weight)
}

/// A body of known size, which is compressed in slices.
enum Packing {
    Plain(Body),
    Begun(Box<Deflate>),
    Done,
}

impl HttpBody for Packing {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        loop {
            match &mut *self {
                Self::Plain(body) => match ready!(Pin::new(body).poll_frame(cx)) {
                    Some(Ok(frame)) => match frame.into_data() {
                        // A body of known size is a single frame, so this one is all of it.
                        Ok(bytes) => *self = Self::Begun(Box::new(Deflate::new(bytes))),
                        Err(other) => return Poll::Ready(Some(Ok(other))),
                    },
                    other => return Poll::Ready(other),
                },
                Self::Begun(deflate) => match deflate.go_on() {
                    Ok(None) => {
                        // One slice for each poll: other tasks of this thread run between the
                        // slices of a large body.
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Ok(Some(packed)) => {
                        *self = Self::Done;
                        return Poll::Ready(Some(Ok(Frame::data(packed.into()))));
                    }
                    Err(error) => return Poll::Ready(Some(Err(axum::Error::new(error)))),
                },
                Self::Done => return Poll::Ready(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_used_if_the_client_accepts_it() {
        let takes = |value: &'static str| {
            takes_gzip(&HeaderMap::from_iter([(
                header::ACCEPT_ENCODING,
                HeaderValue::from_static(value),
            )]))
        };
        for value in [
            "gzip",
            "deflate, GZIP;q=0.5",
            "br, x-gzip",
            "*",
            "identity, *;q=0.1",
            "gzip; q=1",
            "gzip;Q=0.5",
        ] {
            assert!(takes(value), "{value}");
        }
        for value in [
            "",
            "br",
            "gzip;q=0",
            "gzip;Q=0",
            "gzip;q=0.0, *",
            "*;q=0",
            "gzipped",
            "identity",
        ] {
            assert!(!takes(value), "{value}");
        }
        assert!(!takes_gzip(&HeaderMap::new()));
    }
}
