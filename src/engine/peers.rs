//! The other servers of the cell. A transaction that leaves work for them sends one notification,
//! and a received notification triggers reads of the database. A lost one delays the work by one
//! poll and never loses it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, future::poll_fn, stream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    catalog::Catalog,
    events::Events,
    gates::Gates,
    hub::{CancelReason, Hub},
    shared::Shared,
    watch::Watchers,
};
use crate::engine::hash::HashSet;
use crate::store::{Db, StoreError, db::Message, server, task, worker};

/// Interval between heartbeats of a server.
const BEAT: Duration = Duration::from_secs(5);
/// Interval between comparisons of watched tasks and held leases with the database while there are
/// other servers.
const LOOK: Duration = Duration::from_secs(1);
/// Minimum interval between notifications of all watchers.
const WATCH_PAUSE: Duration = Duration::from_millis(100);
/// Usual maximum delay of a notification.
const HEARD_BY: Duration = Duration::from_millis(100);
/// Before the first heartbeat the number of other servers is unknown, so notifications are sent.
const UNKNOWN: i64 = -1;
/// Maximum queued notifications.
const MAX_NEWS: usize = 64;

/// This server's knowledge of the others.
pub struct Peers {
    pub server_id: Uuid,
    /// The number of other servers, or [`UNKNOWN`].
    others: AtomicI64,
    /// Another server has subscribers and needs a notification of every event.
    listened: AtomicBool,
}

/// The content of a notification; one letter each on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct News {
    /// Steps wait for workers.
    work: bool,
    /// Tasks have changed.
    moved: bool,
    /// Attempts were ended by another server.
    cancels: bool,
    /// A template was registered, retired or restored.
    templates: bool,
    /// The admission state of a service changed.
    services: bool,
    /// Events were written.
    events: bool,
    /// The sender has a first subscriber and needs a notification of every event from now on.
    listened: bool,
    /// Lanes or services were removed.
    gone: bool,
    /// The connection to the database is new, and the database may be another one.
    anew: bool,
}

impl News {
    fn merge(&mut self, other: Self) {
        self.work |= other.work;
        self.moved |= other.moved;
        self.cancels |= other.cancels;
        self.templates |= other.templates;
        self.services |= other.services;
        self.events |= other.events;
        self.listened |= other.listened;
        self.gone |= other.gone;
        self.anew |= other.anew;
    }
}

impl Peers {
    pub fn new(server_id: Uuid) -> Self {
        Self {
            server_id,
            others: AtomicI64::new(UNKNOWN),
            listened: AtomicBool::default(),
        }
    }

    /// The payload of a notification about a transaction that has written events; `None` if there
    /// is no other server or nothing to report.
    pub fn news(&self, work: bool, cancels: bool, moved: bool, services: bool) -> Option<String> {
        let events = self.listened.load(Ordering::Relaxed);
        if !(work || cancels || moved || services || events)
            || self.others.load(Ordering::Relaxed) == 0
        {
            return None;
        }
        let letter = |said: bool, letter: &'static str| if said { letter } else { "" };
        let (work, moved, cancels) = (letter(work, "w"), letter(moved, "m"), letter(cancels, "c"));
        let (services, events) = (letter(services, "s"), letter(events, "e"));
        Some(format!(
            "{}:{work}{moved}{cancels}{services}{events}",
            self.server_id
        ))
    }

    /// The payload of a notification about a service.
    pub fn service_news(&self) -> String {
        format!("{}:s", self.server_id)
    }

    /// The payload of a notification about a registered, retired or restored template.
    pub fn template_news(&self) -> String {
        format!("{}:t", self.server_id)
    }

    /// Parses a payload; the result is empty for this server's own.
    fn read(&self, payload: &str) -> News {
        match payload.split_once(':') {
            Some((from, about)) if from != self.server_id.to_string() => {
                let says = |letter| about.contains(letter);
                News {
                    work: says('w'),
                    moved: says('m'),
                    cancels: says('c'),
                    templates: says('t'),
                    services: says('s'),
                    events: says('e'),
                    listened: says('l'),
                    gone: says('g'),
                    anew: false,
                }
            }
            _ => News::default(),
        }
    }

    /// Whether there may be other servers.
    pub fn any(&self) -> bool {
        self.others.load(Ordering::Relaxed) != 0
    }
}

/// The loop that communicates with the other servers.
pub struct PeersLoop {
    db: Db,
    peers: Arc<Peers>,
    catalog: Arc<Catalog>,
    hub: Arc<Hub>,
    gates: Gates,
    watchers: Watchers,
    events: Events,
    address: String,
}

impl PeersLoop {
    pub fn new(shared: &Shared, address: String) -> Self {
        let Shared {
            db,
            peers,
            catalog,
            hub,
            gates,
            watchers,
            events,
            ..
        } = shared.clone();
        Self {
            db,
            peers,
            catalog,
            hub,
            gates,
            watchers,
            events,
            address,
        }
    }

    /// Sends heartbeats, listens and polls until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let (sender, mut news) = mpsc::channel(MAX_NEWS);
        let listener = tokio::spawn(listen(
            self.db.clone(),
            Arc::clone(&self.peers),
            sender,
            shutdown.clone(),
        ));
        let everything = |services| News {
            work: true,
            moved: true,
            cancels: true,
            services,
            ..News::default()
        };
        let mut told = tokio::time::Instant::now() - WATCH_PAUSE;
        let mut beat = tokio::time::interval(BEAT);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let result = tokio::select! {
                () = shutdown.cancelled() => break,
                _ = beat.tick() => self.beat_once().await,
                () = self.events.first_subscriber() => self.listen_in().await,
                _ = look.tick(), if self.peers.any() => self.look_once(everything(self.gates.is_any_closed())).await,
                Some(mut first) = news.recv() => {
                    while let Ok(more) = news.try_recv() {
                        first.merge(more);
                    }
                    // Each watcher reads its task. Under load, the next poll, at most a second
                    // away, stands for many notifications.
                    first.moved &= told.elapsed() >= WATCH_PAUSE;
                    if first.moved {
                        told = tokio::time::Instant::now();
                    }
                    self.look_once(first).await
                }
            };
            if let Err(error) = result {
                tracing::debug!(%error, "the changes of other servers cannot be read");
            }
        }
        listener.abort();
        let _ = server::leave(&self.db, self.peers.server_id).await;
    }

    /// Sends a heartbeat and counts the other servers.
    pub async fn beat_once(&self) -> Result<(), StoreError> {
        let me = server::Server {
            id: self.peers.server_id,
            address: &self.address,
            build_id: env!("CARGO_PKG_VERSION"),
            subscribers: i32::try_from(self.events.subscribers()).unwrap_or(i32::MAX),
        };
        let (others, listened) = server::beat(&self.db, me).await?;
        self.peers.listened.store(listened, Ordering::Relaxed);
        let before = self.peers.others.swap(others, Ordering::Relaxed);
        // Notifies the other servers of this one at once, instead of at their next heartbeat.
        if before <= 0 && others > 0 {
            server::wake(&self.db, &format!("{}:w", self.peers.server_id)).await?;
        }
        Ok(())
    }

    /// Notifies the other servers of a first subscriber at once, instead of with the next
    /// heartbeat. A read a moment later finds the events that they commit before they receive the
    /// notification.
    async fn listen_in(&self) -> Result<(), StoreError> {
        self.beat_once().await?;
        if self.peers.any() {
            server::wake(&self.db, &format!("{}:l", self.peers.server_id)).await?;
            let events = self.events.clone();
            tokio::spawn(async move {
                tokio::time::sleep(HEARD_BY).await;
                events.look();
            });
        }
        Ok(())
    }

    /// Follows up a notification, received or presumed.
    async fn look_once(&self, news: News) -> Result<(), StoreError> {
        // The order matters: templates bring lanes, and the admission state is read for all known
        // lanes and services. The scan (`work`) comes after both, so that it uses their new state.
        if news.templates {
            self.catalog.refresh().await?;
        }
        let lanes = self.catalog.take_new_lanes();
        if lanes {
            self.hub.relane(&self.catalog.lanes());
        }
        let anew = news.anew || news.gone;
        if anew {
            self.gates.doubt();
        }
        if news.gone {
            self.catalog.forget_lanes().await?;
            self.hub.relane(&self.catalog.lanes());
        }
        if lanes || anew || news.services {
            let opened = self.gates.refresh(&self.db, &self.catalog).await?;
            self.hub.steps_wait(opened);
        }
        if news.listened {
            self.peers.listened.store(true, Ordering::Relaxed);
        }
        // A change of a service or a template is an event too.
        if news.events || news.services || news.templates {
            self.events.look();
        }
        if news.work {
            self.hub.anything_waits();
        }
        if news.moved {
            let watched = self.watchers.watched();
            if !watched.is_empty() {
                let ended: HashSet<Uuid> = task::final_states(&self.db, &watched)
                    .await?
                    .into_iter()
                    .collect();
                self.watchers
                    .tell(watched.into_iter().map(|id| (id, ended.contains(&id))));
            }
        }
        if news.cancels {
            let held = self.hub.leases();
            if !held.is_empty() {
                for (lease, cancelled) in worker::dead_leases(&self.db, &held).await? {
                    let reason = if cancelled {
                        CancelReason::TaskCancelled
                    } else {
                        CancelReason::LeaseLost
                    };
                    self.hub.cancel(lease, reason);
                }
            }
        }
        Ok(())
    }
}

/// Listens until `shutdown`, and reconnects as needed. Notifications may have been lost before a
/// new connection, so it reports every kind once.
async fn listen(
    db: Db,
    peers: Arc<Peers>,
    sender: mpsc::Sender<News>,
    shutdown: CancellationToken,
) {
    while !shutdown.is_cancelled() {
        if let Err(error) = listen_once(&db, &peers, &sender).await {
            tracing::debug!(%error, "the notification connection ended");
        }
        tokio::time::sleep(jitter(Duration::from_millis(500))).await;
    }
}

async fn listen_once(
    db: &Db,
    peers: &Peers,
    sender: &mpsc::Sender<News>,
) -> Result<(), StoreError> {
    let (client, mut connection) = db.connect_raw().await?;
    let mut messages = stream::poll_fn(move |cx| connection.poll_message(cx));
    let listen = format!("LISTEN {}", db.channel());
    let mut start = std::pin::pin!(client.batch_execute(&listen));
    let mut started = false;
    loop {
        tokio::select! {
            result = poll_fn(|cx| start.as_mut().poll(cx)), if !started => {
                result?;
                started = true;
                let everything = News {
                    work: true,
                    moved: true,
                    cancels: true,
                    templates: true,
                    services: true,
                    events: true,
                    listened: false,
                    gone: true,
                    anew: true,
                };
                let _ = sender.try_send(everything);
            }
            message = messages.next() => match message {
                Some(Ok(Message::Notification(n))) => {
                    let news = peers.read(n.payload());
                    if news != News::default() {
                        peers.others.fetch_max(1, Ordering::Relaxed);
                        let _ = sender.try_send(news);
                    }
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(()),
            }
        }
    }
}

/// The time with a jitter of up to a quarter, so that servers do not poll all at once.
pub fn jitter(time: Duration) -> Duration {
    let (_, random) = Uuid::new_v4().as_u64_pair();
    #[expect(
        clippy::cast_precision_loss,
        reason = "a share between 0 and 1 needs no more precision"
    )]
    let share = (random & 0xffff) as f64 / f64::from(0xffff);
    time.mul_f64(0.75 + share / 2.0)
}
