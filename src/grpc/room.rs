//! A bound on the memory of all bodies being read together. Each body is bounded by itself; this
//! bounds many at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tonic::{Code, Status};

use super::error;
use crate::engine::{ListenerCounts, Refusal};

/// Bound on the requests that are read or answered at once, in bytes.
pub const MAX_BODIES_BYTES: usize = 64 << 20;
/// Bound on the incoming messages on the streams of workers and other clients, in bytes. It is
/// larger, since a refusal ends a stream.
pub const MAX_STREAMS_BYTES: usize = 256 << 20;
/// Retry delay for a refused caller.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The memory budgets for bodies and for messages of streams.
#[derive(Clone, Debug)]
pub struct Room {
    bodies: Arc<AtomicUsize>,
    streams: Arc<AtomicUsize>,
    pub counts: Arc<ListenerCounts>,
}

impl Room {
    pub fn new(counts: Arc<ListenerCounts>) -> Self {
        Self {
            bodies: Arc::new(AtomicUsize::new(MAX_BODIES_BYTES)),
            streams: Arc::new(AtomicUsize::new(MAX_STREAMS_BYTES)),
            counts,
        }
    }

    /// An account for one request.
    pub fn for_body(&self) -> Taken {
        self.taken(&self.bodies)
    }

    /// An account for the messages of a stream, one at a time.
    pub fn for_stream(&self) -> Taken {
        self.taken(&self.streams)
    }

    fn taken(&self, free: &Arc<AtomicUsize>) -> Taken {
        let bytes = AtomicUsize::new(0);
        Taken(Arc::new(Share {
            free: Arc::clone(free),
            counts: Arc::clone(&self.counts),
            bytes,
        }))
    }
}

/// The memory that one request has taken; returned when the last copy is dropped.
#[derive(Clone, Debug)]
pub struct Taken(Arc<Share>);

#[derive(Debug)]
struct Share {
    free: Arc<AtomicUsize>,
    counts: Arc<ListenerCounts>,
    bytes: AtomicUsize,
}

impl Taken {
    /// Takes this many more bytes, or none.
    pub fn more(&self, bytes: usize) -> Result<(), Full> {
        // Relaxed: the counter protects no other memory, and its own updates are atomic.
        let taken = self
            .0
            .free
            .fetch_update(Relaxed, Relaxed, |free| free.checked_sub(bytes));
        if taken.is_err() {
            self.0.counts.refused(Refusal::Memory);
            return Err(Full);
        }
        self.0.bytes.fetch_add(bytes, Relaxed);
        Ok(())
    }

    /// Returns this many bytes, or all if it has taken fewer.
    pub fn less(&self, bytes: usize) {
        let returned = |taken: usize| Some(taken.saturating_sub(bytes));
        // The update is infallible, so either arm has the bytes taken before.
        let (Ok(before) | Err(before)) = self.0.bytes.fetch_update(Relaxed, Relaxed, returned);
        self.0.free.fetch_add(bytes.min(before), Relaxed);
    }

    /// Returns all memory.
    pub fn clear(&self) {
        self.0.clear();
    }
}

impl Share {
    fn clear(&self) {
        // `swap` returns the bytes once, even if two copies clear the account at the same time.
        self.free.fetch_add(self.bytes.swap(0, Relaxed), Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The budget is exhausted at the moment.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server has no memory left for requests; try again")]
pub struct Full;

impl From<Full> for Status {
    fn from(full: Full) -> Self {
        error::retry_later(
            Code::ResourceExhausted,
            "BODIES_FULL",
            full.to_string(),
            RETRY_AFTER,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_released_on_drop() {
        let room = Room::new(Arc::default());
        let (one, other) = (room.for_body(), room.for_body());
        assert_eq!(one.more(MAX_BODIES_BYTES), Ok(()));
        assert_eq!(
            (other.more(1), other.more(0), room.for_stream().more(1)),
            (Err(Full), Ok(()), Ok(()))
        );
        one.less(1);
        assert_eq!((other.more(2), other.more(1)), (Err(Full), Ok(())));
        one.less(MAX_BODIES_BYTES);
        assert_eq!(other.more(MAX_BODIES_BYTES), Err(Full));
        other.less(1);
        assert_eq!(other.more(MAX_BODIES_BYTES), Ok(()));
        let copy = other.clone();
        drop(other);
        assert_eq!(one.more(1), Err(Full));
        drop(copy);
        assert_eq!(
            (one.more(1), one.more(MAX_BODIES_BYTES)),
            (Ok(()), Err(Full))
        );
        assert_eq!(room.for_stream().more(MAX_STREAMS_BYTES + 1), Err(Full));
        let memory = room
            .counts
            .refusals()
            .into_iter()
            .find(|(why, _)| matches!(why, Refusal::Memory));
        assert_eq!(memory.map(|(_, n)| n), Some(6));
    }
}
