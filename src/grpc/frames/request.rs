//! Bodies of requests: bounded in time and in memory, decompressed before tonic reads them.

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

use super::{HEADER_BYTES, framed};
use crate::{
    engine::Refusal,
    grpc::{
        MAX_MESSAGE_BYTES, error,
        gzip::{Inflate, InflateError},
        room::{Room, Taken},
    },
};

/// Limit on the arrival of a request, or of a message of a stream from its first byte on.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(20);
/// A body that was not polled for this much longer than its remaining time was delayed by the
/// server itself.
const NOT_POLLED: Duration = Duration::from_secs(1);

/// The body of a request.
pub struct RequestBody {
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
    /// The bytes of the frame that is decompressed.
    frame_bytes: usize,
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
            // A header may arrive in pieces, so it is collected.
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

impl RequestBody {
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
        // A single message: its memory is held until the answer, wherever its frame begins.
        if !self.is_stream {
            return Ok(self.taken.more(bytes.len())?);
        }
        let (began, is_incomplete) = self.frames.pass(bytes);
        if !is_incomplete {
            // Between two messages a stream may be silent for any time.
            self.left = None;
        } else if began {
            self.left = Some(BODY_TIMEOUT);
        }
        // The buffer for compressed messages keeps them beyond their last byte; `handed_on` returns
        // their memory.
        if self.gzip.is_some() {
            return Ok(self.taken.more(bytes.len())?);
        }
        if began || !is_incomplete {
            self.taken.clear();
        }
        if is_incomplete {
            self.taken.more(bytes.len())?;
        }
        Ok(())
    }

    /// Accounts for a message that leaves the buffer. The memory of a single message is held until
    /// the answer.
    fn handed_on(&self, bytes: usize) {
        if self.is_stream {
            self.taken.less(bytes);
        }
    }

    /// Deducts the time since the last poll, during which no data arrived.
    fn polled(&mut self) {
        let (Some(since), Some(left)) = (self.since.take(), self.left) else {
            return;
        };
        let waited = since.elapsed();
        // A longer wait means that the server polled too late, which must not count against the
        // client.
        if waited < left + NOT_POLLED {
            self.left = Some(left.saturating_sub(waited));
        }
    }

    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        let Some(left) = self.left else {
            return Poll::Pending;
        };
        // Without time left the message is late already; a new timer would only fire at once.
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
                    // One slice for each poll, so that a large message does not occupy the thread.
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Ok(true) => {
                    let plain = packed
                        .inflating
                        .take()
                        .map(Inflate::into_bytes)
                        .unwrap_or_default();
                    let bytes = packed.frame_bytes + plain.len();
                    self.handed_on(bytes);
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
        // Checked on the header, before the bytes arrive and take memory.
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
        // An uncompressed message passes unchanged, and any other flag is for tonic to refuse.
        if flag != 1 {
            let message = packed.arrived.split_to(HEADER_BYTES + length).freeze();
            self.handed_on(message.len());
            return Poll::Ready(Ok(Some(message)));
        }
        // The flag and the length describe the compressed message; `framed` writes new ones.
        packed.arrived.advance(HEADER_BYTES);
        packed.frame_bytes = HEADER_BYTES + length;
        packed.inflating = Some(Inflate::new(
            packed.arrived.split_to(length).freeze(),
            MAX_MESSAGE_BYTES,
        ));
        // The decompression needs no further data, so the body is polled again at once.
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        this.polled();
        loop {
            match ready!(this.unpacked(cx)) {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(Frame::data(message)))),
                Ok(None) => {}
                Err(status) => return Poll::Ready(Some(Err(status))),
            }
            // The inner body has registered its waker; `wait` adds that of the timer.
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
