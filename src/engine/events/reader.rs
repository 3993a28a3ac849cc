//! Delivers events to subscribers. One reader per server reads new events from the log and sends
//! them to all subscribers of this server. A subscriber that is behind, or too slow, reads the log
//! itself from its own position (`subscription`). Without subscribers, the log is not read.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, OnceCell, Semaphore, broadcast},
    time::Instant,
};
use tokio_util::{
    bytes::{BufMut as _, BytesMut},
    sync::CancellationToken,
};

use super::named::{Encode, NamedEvent, Names};
use crate::{
    domain::event::cursor::{Cursor, MAX_RUNNING},
    engine::{
        loops::Loops,
        observe::{health::HealthCell, pulse::Pulses},
        time::jitter,
    },
    store::{
        Db, StoreError,
        event::{self, Page},
    },
};

/// Maximum subscribers per server.
pub const MAX_SUBSCRIBERS: usize = 1_000;
/// Maximum subscribers that read the log themselves at a time; the others wait for a turn.
const MAX_CATCHING_UP: usize = 3;
/// Maximum events of one read and of one chunk. Each read searches all remaining events up to its
/// snapshot, so many small pages would search them many times.
const PAGE: usize = 16_000;
/// Maximum bytes of the events of one read: of each chunk, and of what a subscriber that does not
/// read keeps. Pages are usually smaller.
pub const MAX_PAGE_BYTES: usize = 16 << 20;
/// Chunks kept for slower subscribers: with the page, some tens of megabytes at most.
const MAX_CHUNKS: usize = 4;
/// Minimum interval between reads. Events written meanwhile are batched; a read takes a millisecond
/// or two even if it finds little.
pub(super) const PAUSE: Duration = Duration::from_millis(100);
/// Longest pause after a read: a read that took longer has waited for a database that stood still.
const MAX_REST: Duration = Duration::from_millis(500);
/// Events encoded before the task yields its thread.
const AT_ONCE: usize = 250;
/// Bytes allocated at a time for encoded events: some hundred events.
const BUFFER: usize = 64 << 10;
/// Interval between reads without a notification: notifications of other servers may be lost.
const POLL: Duration = Duration::from_secs(2);
/// Interval between snapshot marks while the log grows; at full speed some pages lie between two
/// marks.
const MARK: Duration = Duration::from_millis(250);

/// Consecutive events of the log after a position, by their number.
pub(super) struct Chunk {
    pub(super) from: Cursor,
    pub(super) events: Vec<Arc<NamedEvent>>,
    pub(super) page: Page,
}

/// The event delivery of this server. Cheap to clone.
#[derive(Clone)]
pub struct Events(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) db: Db,
    pub(super) encode: Encode,
    pub(super) health: HealthCell,
    pub(super) subscribers: AtomicUsize,
    /// Notified when the first subscriber arrives.
    pub(super) first: Notify,
    pub(super) news: Notify,
    /// Events were written since the last mark.
    pub(super) unmarked: AtomicBool,
    pub(super) chunks: broadcast::Sender<Arc<Chunk>>,
    pub(super) turns: Arc<Semaphore>,
    pub(super) names: Names,
    pub(super) cell: OnceCell<String>,
    pub(super) lag: Mutex<Lag>,
    /// Owns the pauses of the turns, and ends the subscriptions.
    pub(super) loops: Loops,
}

/// The delay at the last read, and the time of that read.
#[derive(Clone, Copy)]
pub(super) struct Lag {
    then: Duration,
    read_at: Instant,
}

impl Events {
    pub fn new(db: Db, encode: Encode, health: HealthCell, loops: Loops) -> Self {
        Self(Arc::new(Inner {
            db,
            encode,
            health,
            subscribers: AtomicUsize::default(),
            first: Notify::new(),
            news: Notify::new(),
            unmarked: AtomicBool::default(),
            chunks: broadcast::Sender::new(MAX_CHUNKS),
            turns: Arc::new(Semaphore::new(MAX_CATCHING_UP)),
            names: Names::default(),
            cell: OnceCell::new(),
            lag: Mutex::new(Lag {
                then: Duration::ZERO,
                read_at: Instant::now(),
            }),
            loops,
        }))
    }

    /// Whether this server has its database, without which nothing can be delivered.
    pub fn health(&self) -> &HealthCell {
        &self.0.health
    }

    /// Waits for a first subscriber, which the other servers do not know of yet.
    pub async fn first_subscriber(&self) {
        self.0.first.notified().await;
    }

    /// Records that a transaction of this server has written events.
    pub fn written(&self) {
        self.0.unmarked.store(true, Ordering::Relaxed);
        self.wake_reader();
    }

    /// Wakes the reader, as another server may have written events.
    pub fn wake_reader(&self) {
        if self.subscribers() > 0 {
            self.0.news.notify_one();
        }
    }

    /// The number of subscribers of this server.
    pub fn subscribers(&self) -> usize {
        self.0.subscribers.load(Ordering::Relaxed)
    }

    /// The age of the oldest event at its delivery, in the last read; it grows while reads fail.
    /// Zero without subscribers.
    pub fn lag(&self) -> Duration {
        if self.subscribers() == 0 {
            return Duration::ZERO;
        }
        let lag = *self.0.lag.lock().unwrap_or_else(PoisonError::into_inner);
        lag.then + lag.read_at.elapsed().saturating_sub(POLL * 2)
    }

    /// Reads the log for the subscribers until `shutdown`.
    pub async fn run_reader(self, pulses: Pulses, shutdown: CancellationToken) {
        let (mut place, mut more) = (None, false);
        loop {
            let wanted = self.subscribers() > 0;
            if !wanted {
                place = None;
                pulses.rest("events");
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = std::future::ready(()), if more => {}
                () = self.0.news.notified() => {}
                () = tokio::time::sleep(jitter(POLL)), if wanted => {}
            }
            let began = Instant::now();
            more = match pulses.round("events", self.read_once(&mut place)).await {
                Ok(done) => !done,
                Err(error) => {
                    tracing::debug!(%error, "the event log cannot be read; retrying");
                    false
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(rest_after(began).max(if more { Duration::ZERO } else { PAUSE })) => {}
            }
        }
    }

    /// Reads at most a page of events after the cursor, by `seq`.
    pub(super) async fn read(
        &self,
        cursor: &Cursor,
    ) -> Result<(Page, Vec<Arc<NamedEvent>>), StoreError> {
        let (mut page, mut events) = event::read(&self.0.db, cursor, PAGE).await?;
        let fit = fitting(events.iter().map(event::LoggedEvent::bytes));
        if fit < events.len() {
            events.truncate(fit);
            page.is_complete = false;
        }
        Ok((page, self.0.names.of(&self.0.db, events).await?))
    }

    /// Delivers the next events after `place`. Returns true if there are no more for now.
    async fn read_once(&self, place: &mut Option<Cursor>) -> Result<bool, StoreError> {
        let Some(cursor) = place else {
            let (now, horizon) = event::now(&self.0.db).await?;
            let cursor = place.insert(Cursor::after(horizon.generation, now.clone()));
            let nothing = Page {
                to: now,
                is_now: true,
                is_complete: true,
                horizon,
                now: std::time::UNIX_EPOCH,
            };
            self.hand_on(cursor, nothing, Vec::new());
            return Ok(true);
        };
        let (page, events) = self.read(cursor).await?;
        if page.to.running().len() > MAX_RUNNING {
            tracing::warn!(
                "{} transactions are open; events are delivered once there are at most {MAX_RUNNING}",
                page.to.running().len()
            );
            return Ok(true);
        }
        if !page.horizon.allows(cursor) {
            // This server stood still for that long. Each subscriber finds that out at its own
            // position.
            *place = None;
            return Ok(false);
        }
        let done = page.is_complete && page.is_now;
        let oldest = events.iter().map(|named| named.event.at).min();
        let then = oldest
            .and_then(|at| page.now.duration_since(at).ok())
            .unwrap_or_default();
        *self.0.lag.lock().unwrap_or_else(PoisonError::into_inner) = Lag {
            then,
            read_at: Instant::now(),
        };
        // A single subscriber encodes its events itself.
        if self.subscribers() > 1 {
            self.encode(cursor, &page, &events).await;
        }
        self.hand_on(cursor, page, events);
        Ok(done)
    }

    /// Encodes the events, and the position after each, once for all subscribers: otherwise the
    /// first subscriber would encode while the others wait.
    async fn encode(&self, from: &Cursor, page: &Page, events: &[Arc<NamedEvent>]) {
        let (mut cursor, cell) = (from.clone(), self.0.cell.get());
        let mut buffer = BytesMut::with_capacity(BUFFER);
        for events in events.chunks(AT_ONCE) {
            for named in events {
                named.encode(self.0.encode, &mut buffer);
                cursor.move_to(&page.to, named.event.seq);
                if let Some(cell) = cell {
                    named.place(|| {
                        buffer.put_slice(cursor.encode(cell).as_bytes());
                        buffer.split().freeze()
                    });
                }
            }
            tokio::task::yield_now().await;
        }
    }

    /// Sends the page to all subscribers and moves the cursor past it.
    fn hand_on(&self, cursor: &mut Cursor, page: Page, events: Vec<Arc<NamedEvent>>) {
        let then = behind(cursor, &page, &events);
        let from = std::mem::replace(cursor, then);
        // There may be no subscriber at this moment.
        let _ = self.0.chunks.send(Arc::new(Chunk { from, events, page }));
    }

    /// Writes snapshot marks while the log grows, until `shutdown`.
    pub async fn run_marks(self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(jitter(MARK)) => {}
            }
            if self.0.unmarked.swap(false, Ordering::Relaxed)
                && let Err(error) = event::mark(&self.0.db).await
            {
                tracing::debug!(%error, "the event log cannot be marked");
            }
        }
    }
}

/// The pause after a read: as long as the read took, so that the engine has precedence.
pub(super) fn rest_after(began: Instant) -> Duration {
    began.elapsed().min(MAX_REST)
}

/// The number of events of these sizes that fit a page, at least one.
fn fitting(sizes: impl Iterator<Item = usize>) -> usize {
    let mut bytes = 0;
    let fits = |size: &usize| {
        bytes += size;
        bytes <= MAX_PAGE_BYTES
    };
    sizes.take_while(fits).count().max(1)
}

/// The position after a page: its snapshot, or its last event if the page is incomplete.
pub(super) fn behind(cursor: &Cursor, page: &Page, events: &[Arc<NamedEvent>]) -> Cursor {
    let mut behind = cursor.clone();
    match events.last() {
        Some(last) if !page.is_complete => behind.move_to(&page.to, last.event.seq),
        _ => behind = Cursor::after(page.horizon.generation, page.to.clone()),
    }
    behind.generation = page.horizon.generation;
    behind
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_ends_at_its_bytes_with_at_least_one_event() {
        let half = MAX_PAGE_BYTES / 2;
        assert_eq!(fitting([half, half, 1].into_iter()), 2);
        assert_eq!(fitting([half, half + 1].into_iter()), 1);
        assert_eq!(fitting([3 * half, 1].into_iter()), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn pause_after_a_read_is_as_long_as_the_read_up_to_a_bound() {
        let began = Instant::now();
        for (read, rest) in [(0, 0), (7, 7), (500, 500), (501, 500), (9_000, 500)] {
            tokio::time::advance(began + Duration::from_millis(read) - Instant::now()).await;
            assert_eq!(rest_after(began), Duration::from_millis(rest), "{read} ms");
        }
    }
}
