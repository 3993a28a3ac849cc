//! The body of a request: bounded in size, in time and, together with all others, in memory;
//! decompressed if it is gzip.

use std::error::Error;

use axum::{
    body::{Body, Bytes, HttpBody as _},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use http_body_util::{BodyExt as _, Limited};

use super::problem::Problem;
use crate::{
    engine::Refusal,
    grpc::{
        frames::BODY_TIMEOUT,
        gzip::{Inflate, InflateError},
        room::{Full, RETRY_AFTER, Room, Taken},
    },
};

/// Bound on a body, in bytes, also after decompression: a context and its annotations of the
/// largest size, and slack. Each field has a tighter bound of its own, which the refusal names.
pub const MAX_BODY_BYTES: usize = 2 << 20;

/// Why a body was not read.
pub enum Unread {
    Problem(Problem),
    /// The refusal lists the accepted encodings.
    Encoding(Problem),
}

impl From<Problem> for Unread {
    fn from(problem: Problem) -> Self {
        Self::Problem(problem)
    }
}

impl From<Full> for Unread {
    fn from(full: Full) -> Self {
        let problem = Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "BODIES_FULL",
            full.to_string(),
        );
        Self::Problem(problem.retry_after(RETRY_AFTER))
    }
}

impl Unread {
    pub fn into_response(self) -> Response {
        match self {
            Self::Problem(problem) => problem.into_response(),
            Self::Encoding(problem) => {
                let accepted = HeaderValue::from_static("gzip, identity");
                let mut response = problem.into_response();
                response
                    .headers_mut()
                    .insert(header::ACCEPT_ENCODING, accepted);
                response
            }
        }
    }
}

/// The body's text, and its memory account, to be kept until the request is answered.
pub async fn read(headers: &HeaderMap, body: Body, room: &Room) -> Result<(String, Taken), Unread> {
    let is_packed = is_packed(headers)?;
    // A declared length over the bound is refused before any memory is taken.
    if body.size_hint().lower() > MAX_BODY_BYTES as u64 {
        return Err(too_large().into());
    }
    let taken = room.for_body();
    // Only the arrival has a limit: the time of the decompression is bounded by the size.
    let arrived = tokio::time::timeout(BODY_TIMEOUT, arrive(body, &taken)).await;
    let arrived = arrived.map_err(|_| {
        room.counts.refused(Refusal::Slow);
        let detail = format!("the body did not arrive within {BODY_TIMEOUT:?}");
        Problem::new(StatusCode::REQUEST_TIMEOUT, "BODY_TIMEOUT", detail)
    })??;
    let plain = if is_packed {
        unpack(arrived.into(), &taken).await?
    } else {
        arrived
    };
    let text = String::from_utf8(plain).map_err(|error| {
        unreadable(format!(
            "the body is not UTF-8 from byte {} on",
            error.utf8_error().valid_up_to()
        ))
    })?;
    Ok((text, taken))
}

async fn arrive(body: Body, taken: &Taken) -> Result<Vec<u8>, Unread> {
    // The size hint that was checked before is zero for a body without a declared length.
    let mut body = Limited::new(body, MAX_BODY_BYTES);
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(
                |error| match error.is::<http_body_util::LengthLimitError>() {
                    true => too_large(),
                    false => unreadable(format!("the body was interrupted: {}", root(&*error))),
                },
            )?;
        if let Some(bytes) = frame.data_ref() {
            // Accounted before the copy, so that a full room stops the body and not the process.
            taken.more(bytes.len())?;
            all.extend_from_slice(bytes);
        }
    }
    Ok(all)
}

async fn unpack(packed: Bytes, taken: &Taken) -> Result<Vec<u8>, Unread> {
    // The bound is that of the plain body, so a small body cannot expand without limit.
    let mut inflate = Inflate::new(packed, MAX_BODY_BYTES);
    loop {
        let before = inflate.unpacked();
        let is_all = inflate.go_on().map_err(|error| match error {
            InflateError::TooLarge(_) => too_large(),
            InflateError::Unreadable(_) => {
                unreadable(format!("the body cannot be decompressed: {error}"))
            }
        })?;
        if is_all {
            return Ok(inflate.into_bytes());
        }
        taken.more(inflate.unpacked() - before)?;
        // However many requests decompress at once, each blocks a thread for one slice only.
        tokio::task::yield_now().await;
    }
}

fn is_packed(headers: &HeaderMap) -> Result<bool, Unread> {
    // More than one encoding would multiply the work of a small body.
    let mut all = headers.get_all(header::CONTENT_ENCODING).iter();
    let Some(first) = all.next() else {
        return Ok(false);
    };
    let said = String::from_utf8_lossy(first.as_bytes())
        .trim()
        .to_ascii_lowercase();
    match (said.as_str(), all.next()) {
        ("gzip" | "x-gzip", None) => Ok(true),
        ("identity" | "", None) => Ok(false),
        _ => {
            let detail = format!(
                "content-encoding `{said:.80}` is not supported: expected gzip or identity, and only one"
            );
            Err(Unread::Encoding(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "CONTENT_ENCODING",
                detail,
            )))
        }
    }
}

fn too_large() -> Problem {
    let detail =
        format!("the body is too large: expected at most {MAX_BODY_BYTES} decompressed bytes");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE", detail)
}

fn unreadable(detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "BODY_UNREADABLE", detail)
}

/// The innermost cause of an error, which is the most specific.
fn root<'e>(error: &'e (dyn Error + 'static)) -> &'e (dyn Error + 'static) {
    error.source().map_or(error, root)
}
