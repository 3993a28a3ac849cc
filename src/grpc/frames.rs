//! Bodies of gRPC in both directions: bounded in time and in memory, decompressed before tonic
//! reads them and compressed after it wrote them. A message is a frame: a flag for compression, its
//! length in four bytes, and its bytes.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Body, Bytes};
use http_body::{Body as HttpBody, Frame};
use prost::bytes::{Buf as _, BufMut as _, BytesMut};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Code, Status};

use super::{
    MAX_MESSAGE_BYTES, error,
    gzip::{Deflate, Inflate, InflateError, MIN_BYTES},
    room::{Room, Taken},
};
use crate::engine::edge::Refusal;

/// Limit on the arrival of a request, or of a message of a stream from its first byte on.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(20);
/// A body that was not polled for this much longer than its remaining time was delayed by the
/// server itself.
const NOT_LOOKED_AT: Duration = Duration::from_secs(1);
/// Size of the header of a message, in bytes.
const HEADER_BYTES: usize = 5;

/// The body of a request.
pub struct Received {
    body: Body,
    room: Room,
    taken: Taken,
    /// Whether it is a stream of messages, whose end has no time limit.
    is_stream: bool,
    /// While data is awaited: the remaining time, and since when the wait lasts.
    left: Option<Duration>,
    since: Option<Instant>,
    timer: Pin<Box<Sleep>>,
    frames: Frames,
    /// Set when messages may be compressed.
    gzip: Option<Packed>,
}

/// Received messages, some of which are compressed.
#[derive(Default)]
struct Packed {
    arrived: BytesMut,
    inflating: Option<Inflate>,
}

/// The position in a message after the received bytes.
#[derive(Default)]
struct Frames {
    header: [u8; HEADER_BYTES],
    have: usize,
    missing: usize,
}

impl Frames {
    /// Takes bytes, and returns whether a message began, and whether the last one is incomplete.
    fn pass(&mut self, mut bytes: &[u8]) -> (bool, bool) {
        let mut began = false;
        while !bytes.is_empty() {
            if self.missing > 0 {
                let some = bytes.len().min(self.missing);
                self.missing -= some;
                bytes = &bytes[some..];
                continue;
            }
            began |= self.have == 0;
            let some = bytes.len().min(HEADER_BYTES - self.have);
            self.header[self.have..self.have + some].copy_from_slice(&bytes[..some]);
            self.have += some;
            bytes = &bytes[some..];
            if self.have == HEADER_BYTES {
                let [_, a, b, c, d] = self.header;
                self.missing =
                    usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
                self.have = 0;
            }
        }
        (began, self.have > 0 || self.missing > 0)
    }
}

impl Received {
    pub fn new(body: Body, room: &Room, is_stream: bool, gzip: bool) -> Self {
        Self {
            body,
            taken: if is_stream {
                room.for_stream()
            } else {
                room.for_body()
            },
            room: room.clone(),
            is_stream,
            left: (!is_stream).then_some(BODY_TIMEOUT),
            since: None,
            timer: Box::pin(sleep_until(Instant::now())),
            frames: Frames::default(),
            gzip: gzip.then(Packed::default),
        }
    }

    /// The accounted memory, to be kept until the request is answered.
    pub fn taken(&self) -> Taken {
        self.taken.clone()
    }

    /// Accounts for received bytes: their memory, and in a stream the time limit of their message.
    fn arrived(&mut self, bytes: &[u8]) -> Result<(), Status> {
        if !self.is_stream {
            return Ok(self.taken.more(bytes.len())?);
        }
        match self.frames.pass(bytes) {
            (_, false) => {
                self.left = None;
                self.taken.clear();
            }
            (true, true) => {
                self.left = Some(BODY_TIMEOUT);
                self.taken.clear();
                self.taken.more(bytes.len())?;
            }
            (false, true) => self.taken.more(bytes.len())?,
        }
        Ok(())
    }

    /// Deducts the time since the last poll, during which no data arrived.
    fn looked(&mut self) {
        let (Some(since), Some(left)) = (self.since.take(), self.left) else {
            return;
        };
        let waited = since.elapsed();
        if waited < left + NOT_LOOKED_AT {
            self.left = Some(left.saturating_sub(waited));
        }
    }

    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let Some(left) = self.left else {
            return Poll::Pending;
        };
        if !left.is_zero() {
            let now = Instant::now();
            self.since = Some(now);
            self.timer.as_mut().reset(now + left);
            ready!(self.timer.as_mut().poll(cx));
        }
        self.room.counts.refused(Refusal::Slow);
        let what = if self.is_stream {
            "a message"
        } else {
            "the request"
        };
        let message = format!("{what} did not arrive within {BODY_TIMEOUT:?}");
        Poll::Ready(error::status(
            Code::DeadlineExceeded,
            "BODY_TIMEOUT",
            message,
        ))
    }

    /// The next complete message, decompressed; `None` if more data is needed first.
    fn unpacked(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        let Some(packed) = &mut self.gzip else {
            return Poll::Ready(Ok(None));
        };
        if let Some(inflating) = &mut packed.inflating {
            let before = inflating.unpacked();
            match inflating.go_on() {
                Ok(false) => {
                    self.taken.more(inflating.unpacked() - before)?;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Ok(true) => {
                    let plain = packed
                        .inflating
                        .take()
                        .map(Inflate::into_bytes)
                        .unwrap_or_default();
                    if self.is_stream && packed.arrived.is_empty() {
                        self.taken.clear();
                    }
                    return Poll::Ready(Ok(Some(framed(false, &plain))));
                }
                Err(error) => return Poll::Ready(Err(not_unpacked(&error))),
            }
        }
        let Some(header) = packed.arrived.first_chunk::<HEADER_BYTES>() else {
            return Poll::Ready(Ok(None));
        };
        let [flag, a, b, c, d] = *header;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length > MAX_MESSAGE_BYTES {
            let message = format!(
                "the message is too large: found {length} bytes, expected at most {MAX_MESSAGE_BYTES}"
            );
            return Poll::Ready(Err(error::status(
                Code::ResourceExhausted,
                "MESSAGE_TOO_LARGE",
                message,
            )));
        }
        if packed.arrived.len() < HEADER_BYTES + length {
            return Poll::Ready(Ok(None));
        }
        if flag != 1 {
            return Poll::Ready(Ok(Some(
                packed.arrived.split_to(HEADER_BYTES + length).freeze(),
            )));
        }
        packed.arrived.advance(HEADER_BYTES);
        packed.inflating = Some(Inflate::new(
            packed.arrived.split_to(length).freeze(),
            MAX_MESSAGE_BYTES,
        ));
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl HttpBody for Received {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        this.looked();
        loop {
            match ready!(this.unpacked(cx)) {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(Frame::data(message)))),
                Ok(None) => {}
                Err(status) => return Poll::Ready(Some(Err(status))),
            }
            let Poll::Ready(next) = Pin::new(&mut this.body).poll_frame(cx) else {
                return Poll::Ready(Some(Err(ready!(this.wait(cx)))));
            };
            let frame = match next {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => {
                    return Poll::Ready(Some(Err(Status::from_error(Box::new(error)))));
                }
                None => {
                    this.left = None;
                    let rest = this
                        .gzip
                        .as_mut()
                        .map(|packed| packed.arrived.split().freeze());
                    // tonic refuses an incomplete message.
                    return Poll::Ready(
                        rest.filter(|rest| !rest.is_empty())
                            .map(|rest| Ok(Frame::data(rest))),
                    );
                }
            };
            let Some(bytes) = frame.data_ref() else {
                return Poll::Ready(Some(Ok(frame)));
            };
            if let Err(status) = this.arrived(bytes) {
                return Poll::Ready(Some(Err(status)));
            }
            match &mut this.gzip {
                None => return Poll::Ready(Some(Ok(frame))),
                Some(packed) => packed.arrived.put_slice(bytes),
            }
        }
    }
}

fn not_unpacked(error: &InflateError) -> Status {
    let message = format!("the message cannot be decompressed: {error}");
    match error {
        InflateError::TooLarge(_) => {
            error::status(Code::ResourceExhausted, "MESSAGE_TOO_LARGE", message)
        }
        InflateError::Unreadable(_) => {
            error::status(Code::InvalidArgument, "MESSAGE_UNREADABLE", message)
        }
    }
}

fn framed(is_packed: bool, message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEADER_BYTES + message.len());
    frame.put_u8(u8::from(is_packed));
    // The length fits four bytes: the bound on a message is far smaller and has been checked.
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    frame.freeze()
}

/// The body of an answer, with its larger messages compressed.
pub struct Sent {
    body: Body,
    /// Whole messages, as tonic makes them.
    rest: Bytes,
    /// A message as it is, and its compression so far.
    packing: Option<(Bytes, Deflate)>,
}

impl Sent {
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

impl HttpBody for Sent {
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
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return Poll::Ready(other),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::stream;
    use http_body_util::BodyExt as _;

    use super::*;

    fn room() -> Room {
        Room::new(Arc::default())
    }

    fn body(chunks: Vec<Bytes>) -> Body {
        Body::from_stream(stream::iter(chunks.into_iter().map(Ok::<_, axum::Error>)))
    }

    async fn all(body: impl HttpBody<Data = Bytes, Error: std::fmt::Debug> + Unpin) -> Bytes {
        body.collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn compressed_response_decompresses_to_the_original() {
        let messages =
            [0, 1, MIN_BYTES - 1, MIN_BYTES, 300_000, 3].map(|n| framed(false, &vec![b'x'; n]));
        let plain = Bytes::from(messages.concat());
        // In one chunk, one per chunk, and cut at any position.
        let sent = all(Sent::new(body(vec![plain.clone()]))).await;
        assert_eq!(sent, all(Sent::new(body(messages.to_vec()))).await);
        assert!(sent.len() < 5_000, "{}", sent.len());
        for cut in [1, 7, 1_000, sent.len()] {
            let chunks: Vec<Bytes> = sent.chunks(cut).map(Bytes::copy_from_slice).collect();
            for is_stream in [false, true] {
                let received = Received::new(body(chunks.clone()), &room(), is_stream, true);
                assert_eq!(all(received).await, plain, "{cut} {is_stream}");
            }
        }
    }

    #[tokio::test]
    async fn incompressible_message_is_sent_uncompressed() {
        let noise: Vec<u8> = (0..2_000_u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        let message = framed(false, &noise);
        let sent = all(Sent::new(body(vec![message.clone()]))).await;
        assert!(sent == message || sent.len() < message.len());
        // An incomplete message passes unchanged.
        let half = message.slice(..100);
        assert_eq!(all(Sent::new(body(vec![half.clone()]))).await, half);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_body_fails_at_its_time_limit() {
        let message = framed(false, &[0; 1_000]);
        let trickle = |is_stream: bool, pause: Duration| {
            let bytes: Vec<Bytes> = message.chunks(1).map(Bytes::copy_from_slice).collect();
            let chunks = stream::unfold(bytes.into_iter(), move |mut bytes| async move {
                tokio::time::sleep(pause).await;
                Some((Ok::<_, axum::Error>(bytes.next()?), bytes))
            });
            Received::new(Body::from_stream(chunks), &room(), is_stream, false)
        };
        for is_stream in [false, true] {
            assert_eq!(
                all(trickle(is_stream, Duration::from_millis(19)))
                    .await
                    .len(),
                message.len()
            );
            let started = Instant::now();
            let status = trickle(is_stream, Duration::from_millis(30))
                .collect()
                .await
                .unwrap_err();
            assert_eq!(status.code(), Code::DeadlineExceeded);
            assert!(
                (19..22).contains(&started.elapsed().as_secs()),
                "{:?}",
                started.elapsed()
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn stream_may_pause_between_messages() {
        let message = framed(false, b"hello");
        let chunks = stream::unfold(0, move |n| {
            let message = message.clone();
            async move {
                tokio::time::sleep(Duration::from_secs(300)).await;
                (n < 3).then_some((Ok::<_, axum::Error>(message), n + 1))
            }
        });
        let received = Received::new(Body::from_stream(chunks), &room(), true, false);
        assert_eq!(all(received).await.len(), 30);
    }

    #[tokio::test]
    async fn message_without_room_is_refused() {
        let room = room();
        let others = room.for_body();
        others
            .more(super::super::room::MAX_BODIES_BYTES - 100)
            .unwrap();
        let received = |bytes: usize| {
            Received::new(body(vec![Bytes::from(vec![0; bytes])]), &room, false, false)
        };
        assert_eq!(all(received(100)).await.len(), 100);
        let status = received(101).collect().await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
        // The bound also covers the decompressed size.
        let sent = all(Sent::new(body(vec![framed(false, &[0; 5_000])]))).await;
        assert!(sent.len() < 100);
        let status = Received::new(body(vec![sent]), &room, false, true)
            .collect()
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted);
    }
}
