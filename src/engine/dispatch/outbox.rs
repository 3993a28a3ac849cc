//! The messages that wait to be sent to one worker, bounded by number and by bytes.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{Stream, StreamExt as _, stream};
use tokio::sync::mpsc;

use super::message::ToWorker;

/// A worker gets no further assignments while this many bytes of them wait in its outbox. The last
/// assignment, and small ones of one transaction, may exceed it.
pub const MAX_QUEUED_BYTES: usize = 16 << 20;

/// The amount that waits, and the time of the last read.
#[derive(Default)]
pub(super) struct Queued {
    /// Of assignments, both queued and reserved.
    bytes: AtomicUsize,
    /// Messages in the outbox.
    messages: AtomicUsize,
    /// When the worker last took a message; None if none waits.
    since: Mutex<Option<Instant>>,
}

impl Queued {
    pub(super) fn has_room(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) < MAX_QUEUED_BYTES
    }

    pub(super) fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn subtract(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn since(&self, since: Option<Instant>) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }
}

/// Shared by both ends, so the sender can discard messages that the worker does not read.
type Receiver = Arc<Mutex<mpsc::Receiver<ToWorker>>>;

/// The sending end of a worker's stream.
pub struct Outbox {
    sender: mpsc::Sender<ToWorker>,
    receiver: Receiver,
    pub(super) queued: Arc<Queued>,
}

/// The receiving end of a worker's stream.
pub struct Inbox {
    receiver: Receiver,
    queued: Arc<Queued>,
}

/// The two ends of an outbox for at most `messages` messages.
pub fn channel(messages: usize) -> (Outbox, Inbox) {
    let (sender, receiver) = mpsc::channel(messages);
    let receiver = Arc::new(Mutex::new(receiver));
    let queued = Arc::<Queued>::default();
    let inbox = Inbox {
        receiver: Arc::clone(&receiver),
        queued: Arc::clone(&queued),
    };
    (
        Outbox {
            sender,
            receiver,
            queued,
        },
        inbox,
    )
}

impl Outbox {
    /// Returns false if the outbox is full or its other end is closed.
    pub(super) fn send(&self, message: ToWorker) -> bool {
        let bytes = message.bytes();
        // Counted before it is sent: the other end may take it at once.
        self.queued.add(bytes);
        if self.queued.messages.fetch_add(1, Ordering::Relaxed) == 0 {
            self.queued.since(Some(Instant::now()));
        }
        let sent = self.sender.try_send(message).is_ok();
        if !sent {
            self.queued.subtract(bytes);
            self.queued.messages.fetch_sub(1, Ordering::Relaxed);
        }
        sent
    }

    /// Discards the waiting messages. An unread stream would hold them for as long as the
    /// connection lasts.
    pub(super) fn discard(&self) {
        let mut receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        receiver.close();
        while receiver.try_recv().is_ok() {}
    }

    /// Whether messages have waited for `limit` without one being taken.
    pub(super) fn is_stalled(&self, limit: Duration) -> bool {
        let since = *self
            .queued
            .since
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.queued.messages.load(Ordering::Relaxed) > 0
            && since.is_some_and(|since| since.elapsed() >= limit)
    }
}

impl Inbox {
    /// The messages in order. `emptied` is called when a full outbox has room again.
    pub fn into_stream(self, emptied: impl Fn() + Send) -> impl Stream<Item = ToWorker> + Send {
        let Self { receiver, queued } = self;
        let next = move |cx: &mut std::task::Context<'_>| {
            receiver
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .poll_recv(cx)
        };
        stream::poll_fn(next).map(move |message| {
            let was_full = !queued.has_room();
            queued.subtract(message.bytes());
            let left = queued.messages.fetch_sub(1, Ordering::Relaxed) - 1;
            queued.since((left > 0).then(Instant::now));
            if was_full && queued.has_room() {
                emptied();
            }
            message
        })
    }

    #[cfg(test)]
    pub(super) fn try_recv(&mut self) -> Result<ToWorker, mpsc::error::TryRecvError> {
        let message = self
            .receiver
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .try_recv()?;
        self.queued.subtract(message.bytes());
        self.queued.messages.fetch_sub(1, Ordering::Relaxed);
        Ok(message)
    }
}
