//! Bodies of responses: their larger messages compressed after tonic wrote them.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::body::{Body, Bytes};
use http_body::{Body as HttpBody, Frame};

use super::{HEADER_BYTES, framed};
use crate::grpc::gzip::{Deflate, MIN_BYTES};

/// The body of an answer, with its larger messages compressed.
pub struct ResponseBody {
    body: Body,
    /// Whole messages, as tonic makes them.
    rest: Bytes,
    /// A message as it is, and its compression so far.
    packing: Option<(Bytes, Deflate)>,
}

impl ResponseBody {
    pub fn new(body: Body) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            packing: None,
        }
    }

    /// The messages before the first one that is worth compressing, whose compression then begins.
    fn next(&mut self) -> Option<Bytes> {
        let mut small = 0;
        while let Some([_, a, b, c, d]) = self.rest[small..].first_chunk::<HEADER_BYTES>() {
            let length =
                usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).unwrap_or(usize::MAX);
            let end = HEADER_BYTES.saturating_add(length);
            if length >= MIN_BYTES && self.rest.len() - small >= end {
                // The small messages before it are sent first, in their order.
                if small == 0 {
                    let message = self.rest.split_to(end);
                    self.packing =
                        Some((message.clone(), Deflate::new(message.slice(HEADER_BYTES..))));
                    return None;
                }
                return Some(self.rest.split_to(small));
            }
            small = small.saturating_add(end).min(self.rest.len());
        }
        (!self.rest.is_empty()).then(|| std::mem::take(&mut self.rest))
    }

    /// Compresses another slice; returns the message once it is complete, uncompressed if the
    /// compression made it no smaller.
    fn pack(&mut self) -> Option<Bytes> {
        let (message, deflate) = self.packing.as_mut()?;
        let whole = match deflate.go_on() {
            Ok(None) => return None,
            Ok(Some(packed)) if HEADER_BYTES + packed.len() < message.len() => {
                framed(true, &packed)
            }
            // Writing to memory does not fail.
            Ok(Some(_)) | Err(_) => std::mem::take(message),
        };
        self.packing = None;
        Some(whole)
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        loop {
            if self.packing.is_some() {
                if let Some(message) = self.pack() {
                    return Poll::Ready(Some(Ok(Frame::data(message))));
                }
                // One slice for each poll, so that a large answer does not occupy the thread.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if !self.rest.is_empty() {
                match self.next() {
                    Some(messages) => return Poll::Ready(Some(Ok(Frame::data(messages)))),
                    None => continue,
                }
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => self.rest = bytes,
                    // The status follows the last message, so nothing is left to compress.
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return Poll::Ready(other),
            }
        }
    }
}
