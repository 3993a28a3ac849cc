//! One subscriber: his place in the log, and how he gets from there to what happens now.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{
    sync::broadcast::{Receiver, error::RecvError},
    task::coop::consume_budget,
    time::Instant,
};

use tokio_util::bytes::Bytes;

use super::{Chunk, Events, Filter, MAX_SUBSCRIBERS, NamedEvent, PAUSE, behind, rest_after};
use crate::{
    domain::{
        cursor::{Cursor, MAX_RUNNING},
        snapshot::Snapshot,
    },
    store::{
        StoreError,
        event::{self, Horizon},
    },
};
use std::sync::atomic::Ordering;

/// A subscriber without an event is told the place this often, moved or not: so he, and whatever is between, hears something.
const TELL_PLACE: Duration = Duration::from_secs(10);

/// Where a subscription begins.
#[derive(Clone, Debug)]
pub enum Start {
    Now,
    Beginning,
    /// After a cursor.
    After(String),
}

/// Why there is no (more) subscription.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    #[error("this server has {MAX_SUBSCRIBERS} subscribers already")]
    TooMany,
    #[error("not a cursor of this cell: expected one that Subscribe gave, unchanged")]
    BadCursor,
    #[error("events after the cursor have been removed with their tasks")]
    TooOld,
    #[error("the cursor is from later than the database is: was it restored from a backup?")]
    Ahead,
    #[error("the server is shutting down; go on at another one with the last cursor")]
    Stopping,
    #[error("the server has lost its database; go on at another one with the last cursor")]
    CutOff,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a subscriber is sent.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// Encoded; `None` to tell the place alone.
    pub event: Option<Bytes>,
    /// The place after it, as text.
    pub cursor: Bytes,
}

/// A subscription; it ends when dropped.
pub struct Subscription {
    _place: Place,
    events: Events,
    cell: String,
    filter: Filter,
    cursor: Cursor,
    /// To be delivered before anything else.
    next: Next,
    /// Hears of new events; what comes before the cursor, or leaves a gap, is found out by the snapshots.
    live: Receiver<Arc<Chunk>>,
    /// Reads the log itself.
    behind: bool,
    told: Instant,
    /// The cursor was not told since it moved.
    moved: bool,
}

/// Events on their way out, and where that leads.
#[derive(Default)]
struct Next {
    events: VecDeque<Arc<NamedEvent>>,
    /// The place after each is that of others, too.
    shared: bool,
    then: Option<(Snapshot, Cursor)>,
}

/// Counts one subscriber.
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
        if before == 0 {
            self.0.first.notify_one();
        }
        // Before the look, so that nothing is between the two.
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
                return Err(
                    StoreError::Connection("too many transactions run at once".into()).into(),
                );
            }
            Start::Beginning => (Cursor::beginning(horizon.generation), true),
            Start::After(text) => (resumed(&text, &cell, &now, horizon)?, true),
        };
        // The reader may have been waiting for a first subscriber.
        self.look();
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
    now: &Snapshot,
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
    /// The place now, without an event.
    pub fn place(&mut self) -> Delivery {
        self.moved = false;
        self.told = Instant::now();
        Delivery {
            event: None,
            cursor: self.cursor.encode(&self.cell).into(),
        }
    }

    /// The next event, or a new place. Stays usable when it is dropped before it is done.
    pub async fn next(&mut self) -> Result<Delivery, SubscribeError> {
        loop {
            // A page of events takes its time: others get their turn on the thread.
            consume_budget().await;
            if let Some(delivery) = self.deliver() {
                return Ok(delivery);
            }
            let due = self.told + TELL_PLACE;
            if Instant::now() >= due {
                return Ok(self.place());
            }
            let (stopping, health) = (self.events.0.stopping.clone(), self.events.health().clone());
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
                heard = self.live.recv() => match heard {
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

    /// Reads on from the own place.
    async fn catch_up(&mut self) -> Result<(), SubscribeError> {
        if self.cursor.within.is_none() {
            // What comes after the coming look is heard from here on.
            self.live = self.events.0.chunks.subscribe();
        }
        let turn = Arc::clone(&self.events.0.turns)
            .acquire_owned()
            .await
            .map_err(|_| SubscribeError::Stopping)?;
        let began = Instant::now();
        let (page, events) = self.events.read(&self.cursor).await?;
        let rest = rest_after(began);
        // The turn rests, and not the subscriber, who has something to do now.
        tokio::spawn(async move {
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

    /// Takes what comes next, and what the reader has handed on before the own place not again.
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
