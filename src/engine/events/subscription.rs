//! A subscription: its position in the log, and its way from there to the present.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    task::coop::consume_budget,
    time::Instant,
};
use tokio_util::bytes::Bytes;

use super::{
    filter::Filter,
    named::NamedEvent,
    reader::{Chunk, Events, MAX_SUBSCRIBERS, PAUSE, behind, rest_after},
};
use crate::{
    domain::event::{
        cursor::{Cursor, MAX_RUNNING},
        pg_snapshot::PgSnapshot,
    },
    store::{
        StoreError,
        event::{self, Horizon},
    },
};

/// Interval at which a subscriber without events receives its position, moved or not, so that it
/// and any proxy see traffic.
const TELL_PLACE: Duration = Duration::from_secs(10);

/// The start of a subscription.
#[derive(Clone, Debug)]
pub enum Start {
    Now,
    Beginning,
    /// After a cursor.
    After(String),
}

/// The reason for refusing or ending a subscription.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    #[error("this server has {MAX_SUBSCRIBERS} subscribers already")]
    TooMany,
    #[error("not a cursor of this cell: expected one that Subscribe returned, unchanged")]
    BadCursor,
    #[error("events after the cursor have been removed with their tasks")]
    TooOld,
    #[error("the cursor is newer than the database: was it restored from a backup?")]
    Ahead,
    #[error("the server is shutting down; continue at another one with the last cursor")]
    Stopping,
    #[error("the server has lost its database; continue at another one with the last cursor")]
    CutOff,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A message to a subscriber.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Encoded; `None` if the message has only the position.
    pub event: Option<Bytes>,
    /// The position after it, as text.
    pub cursor: Bytes,
}

/// A subscription; it ends on drop.
pub struct Subscription {
    _place: Place,
    events: Events,
    cell: String,
    filter: Filter,
    cursor: Cursor,
    /// Delivered before anything else.
    next: Next,
    /// New events from the reader. The snapshots show which precede the cursor, and whether there
    /// is a gap.
    live: Receiver<Arc<Chunk>>,
    /// The subscription reads the log itself.
    behind: bool,
    told: Instant,
    /// The cursor has moved since it was last sent.
    moved: bool,
}

/// Events to be delivered, and the position after them.
#[derive(Default)]
struct Next {
    events: VecDeque<Arc<NamedEvent>>,
    /// The position after each event is the same for other subscribers.
    shared: bool,
    then: Option<(PgSnapshot, Cursor)>,
}

/// Counts one subscriber. Released on drop.
struct Place(Events);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.subscribers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Events {
    /// Begins a subscription.
    pub async fn subscribe(
        &self,
        start: Start,
        filter: Filter,
    ) -> Result<Subscription, SubscribeError> {
        let place = Place(self.clone());
        let before = self.0.subscribers.fetch_add(1, Ordering::Relaxed);
        if before >= MAX_SUBSCRIBERS {
            return Err(SubscribeError::TooMany);
        }
        // The other servers have to know, so that they notify this one of every commit.
        if before == 0 {
            self.0.first.notify_one();
        }
        // Before the snapshot is read, so that no event falls between the two.
        let live = self.0.chunks.subscribe();
        let cell = self
            .0
            .cell
            .get_or_try_init(|| event::cell(&self.0.db))
            .await?
            .clone();
        let (now, horizon) = event::now(&self.0.db).await?;
        let (cursor, behind) = match start {
            Start::Now if now.running().len() <= MAX_RUNNING => {
                (Cursor::after(horizon.generation, now), false)
            }
            Start::Now => {
                return Err(StoreError::Connection("too many transactions are open".into()).into());
            }
            Start::Beginning => (Cursor::beginning(horizon.generation), true),
            Start::After(text) => (resumed(&text, &cell, &now, horizon)?, true),
        };
        // The reader may have waited for a first subscriber.
        self.wake_reader();
        Ok(Subscription {
            _place: place,
            events: self.clone(),
            cell,
            filter,
            cursor,
            next: Next::default(),
            live,
            behind,
            told: Instant::now(),
            moved: true,
        })
    }
}

fn resumed(
    text: &str,
    cell: &str,
    now: &PgSnapshot,
    horizon: Horizon,
) -> Result<Cursor, SubscribeError> {
    let cursor = Cursor::decode(text, cell).ok_or(SubscribeError::BadCursor)?;
    if cursor.end() > now.end() {
        return Err(SubscribeError::Ahead);
    }
    if !horizon.allows(&cursor) {
        return Err(SubscribeError::TooOld);
    }
    Ok(cursor)
}

impl Subscription {
    /// A message with the current position and no event.
    pub fn place(&mut self) -> Delivery {
        self.moved = false;
        self.told = Instant::now();
        Delivery {
            event: None,
            cursor: self.cursor.encode(&self.cell).into(),
        }
    }

    /// The next event or position. Cancel safe.
    pub async fn next(&mut self) -> Result<Delivery, SubscribeError> {
        loop {
            // A page of events takes some time, so the thread is yielded now and then.
            consume_budget().await;
            if let Some(delivery) = self.deliver() {
                return Ok(delivery);
            }
            let due = self.told + TELL_PLACE;
            if Instant::now() >= due {
                return Ok(self.place());
            }
            let (stopping, health) = (
                self.events.0.loops.shutdown().clone(),
                self.events.health().clone(),
            );
            if self.behind {
                tokio::select! {
                    () = stopping.cancelled() => return Err(SubscribeError::Stopping),
                    () = health.is_cut_off() => return Err(SubscribeError::CutOff),
                    read = self.catch_up() => read?,
                }
                continue;
            }
            tokio::select! {
                () = stopping.cancelled() => return Err(SubscribeError::Stopping),
                () = health.is_cut_off() => return Err(SubscribeError::CutOff),
                () = tokio::time::sleep_until(due) => {}
                heartbeats = self.live.recv() => match heartbeats {
                    Ok(chunk) => self.take(&chunk),
                    Err(RecvError::Lagged(_)) => self.behind = true,
                    Err(RecvError::Closed) => return Err(SubscribeError::Stopping),
                },
            }
        }
    }

    fn deliver(&mut self) -> Option<Delivery> {
        let Some(event) = self.next.events.pop_front() else {
            if let Some((_, then)) = self.next.then.take() {
                self.moved |= then != self.cursor;
                self.cursor = then;
            }
            return None;
        };
        let (to, _) = self.next.then.as_ref()?;
        self.cursor.move_to(to, event.event.seq);
        self.moved = false;
        if self.next.events.is_empty() {
            self.told = Instant::now();
        }
        let encode = || Bytes::from(self.cursor.encode(&self.cell));
        let cursor = if self.next.shared {
            event.place(encode)
        } else {
            encode()
        };
        Some(Delivery {
            event: Some(event.encoded(self.events.0.encode)),
            cursor,
        })
    }

    /// Reads the log from the own position.
    async fn catch_up(&mut self) -> Result<(), SubscribeError> {
        if self.cursor.within.is_none() {
            // Events after the following read arrive through this receiver.
            self.live = self.events.0.chunks.subscribe();
        }
        let turn = Arc::clone(&self.events.0.turns)
            .acquire_owned()
            .await
            .map_err(|_| SubscribeError::Stopping)?;
        let began = Instant::now();
        let (page, events) = self.events.read(&self.cursor).await?;
        let rest = rest_after(began);
        // The pause applies to the turn and not to the subscriber, which has events to deliver now.
        self.events.0.loops.spawn(async move {
            tokio::time::sleep(rest).await;
            drop(turn);
        });
        if page.to.running().len() > MAX_RUNNING {
            tokio::time::sleep(PAUSE).await;
            return Ok(());
        }
        if !page.horizon.allows(&self.cursor) {
            return Err(SubscribeError::TooOld);
        }
        let then = behind(&self.cursor, &page, &events);
        self.behind = !(page.is_complete && page.is_now);
        (self.next.then, self.next.shared) = (Some((page.to, then)), false);
        self.next
            .events
            .extend(events.into_iter().filter(|event| self.filter.takes(event)));
        Ok(())
    }

    /// Takes the next chunk of the reader; events before the own position are skipped, and a gap
    /// switches to reading the log.
    fn take(&mut self, chunk: &Chunk) {
        let to = &chunk.page.to;
        let after = chunk.from.within.as_ref().map_or(0, |within| within.seq);
        let follows = match &self.cursor.within {
            Some(within) => within.to == *to && within.seq == after,
            None if self.cursor.seen.includes(to) => return,
            None => after == 0 && self.cursor.seen.includes(&chunk.from.seen),
        };
        if !follows {
            self.behind = true;
            return;
        }
        let then = behind(&self.cursor, &chunk.page, &chunk.events);
        let new = |event: &&Arc<NamedEvent>| {
            !self.cursor.seen.sees(event.event.xid) && self.filter.takes(event)
        };
        self.next
            .events
            .extend(chunk.events.iter().filter(new).cloned());
        (self.next.then, self.next.shared) = (Some((to.clone(), then)), self.cursor == chunk.from);
    }
}
