//! The other servers of the cell. A transaction that leaves work for them sends one notification,
//! and a received notification triggers reads of the database. A lost one delays the work by one
//! poll and never loses it.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{StreamExt as _, future::poll_fn, stream};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{membership::Membership, notification::Notification};
use crate::{
    engine::{
        admission::control::Admission,
        cache::templates::TemplateCache,
        dispatch::{message::CancelReason, registry::Registry},
        events::{reader::Events, watch::Watchers},
        hash::HashSet,
        loops::Loops,
        time::jitter,
    },
    store::{Db, StoreError, db::Message, server, task, worker},
};

/// Interval between heartbeats of a server.
const BEAT: Duration = Duration::from_secs(5);
/// Interval between comparisons of watched tasks and held leases with the database while there are
/// other servers.
const POLL: Duration = Duration::from_secs(1);
/// Minimum interval between notifications of all watchers.
const WATCH_PAUSE: Duration = Duration::from_millis(100);
/// Usual maximum delay of a notification.
const HEARD_BY: Duration = Duration::from_millis(100);
/// Maximum queued notifications.
const MAX_QUEUED: usize = 64;

/// The loop that communicates with the other servers.
pub struct NotificationLoop {
    pub db: Db,
    pub membership: Arc<Membership>,
    pub templates: Arc<TemplateCache>,
    pub registry: Arc<Registry>,
    pub admission: Admission,
    pub watchers: Watchers,
    pub events: Events,
    pub address: String,
    /// Owns the wake-ups that are due later.
    pub loops: Loops,
}

impl NotificationLoop {
    /// Sends heartbeats, listens and polls until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let (sender, mut received) = mpsc::channel(MAX_QUEUED);
        let mut listener = JoinSet::new();
        listener.spawn(listen(
            self.db.clone(),
            Arc::clone(&self.membership),
            sender,
            shutdown.clone(),
        ));
        let everything = |services| Notification {
            work: true,
            moved: true,
            cancels: true,
            services,
            ..Notification::default()
        };
        let mut notified = tokio::time::Instant::now() - WATCH_PAUSE;
        let mut beat = tokio::time::interval(BEAT);
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let result = tokio::select! {
                () = shutdown.cancelled() => break,
                _ = beat.tick() => self.beat_once().await,
                () = self.events.first_subscriber() => self.announce_subscriber().await,
                _ = poll.tick(), if self.membership.has_others() => self.follow_up(everything(self.admission.is_any_closed())).await,
                Some(mut first) = received.recv() => {
                    while let Ok(more) = received.try_recv() {
                        first.merge(more);
                    }
                    // Each watcher reads its task. Under load, the next poll, at most a second
                    // away, stands for many notifications.
                    first.moved &= notified.elapsed() >= WATCH_PAUSE;
                    if first.moved {
                        notified = tokio::time::Instant::now();
                    }
                    self.follow_up(first).await
                }
            };
            if let Err(error) = result {
                tracing::debug!(%error, "the changes of other servers cannot be read");
            }
        }
        listener.abort_all();
        let _ = server::leave(&self.db, self.membership.server_id).await;
    }

    /// Sends a heartbeat and counts the other servers.
    pub async fn beat_once(&self) -> Result<(), StoreError> {
        let me = server::Server {
            id: self.membership.server_id,
            address: &self.address,
            build_id: env!("CARGO_PKG_VERSION"),
            subscribers: i32::try_from(self.events.subscribers()).unwrap_or(i32::MAX),
        };
        let (others, listened) = server::beat(&self.db, me).await?;
        self.membership.listened.store(listened, Ordering::Relaxed);
        let before = self.membership.others.swap(others, Ordering::Relaxed);
        // Notifies the other servers of this one at once, instead of at their next heartbeat.
        if before <= 0 && others > 0 {
            server::wake(&self.db, &format!("{}:w", self.membership.server_id)).await?;
        }
        Ok(())
    }

    /// Notifies the other servers of a first subscriber at once, instead of with the next
    /// heartbeat. A read a moment later finds the events that they commit before they receive the
    /// notification.
    async fn announce_subscriber(&self) -> Result<(), StoreError> {
        self.beat_once().await?;
        if self.membership.has_others() {
            server::wake(&self.db, &format!("{}:l", self.membership.server_id)).await?;
            let events = self.events.clone();
            self.loops.spawn(async move {
                tokio::time::sleep(HEARD_BY).await;
                events.wake_reader();
            });
        }
        Ok(())
    }

    /// Follows up a notification, received or presumed.
    async fn follow_up(&self, received: Notification) -> Result<(), StoreError> {
        // The order matters: templates bring lanes, and the admission state is read for all known
        // lanes and services. The scan (`work`) comes after both, so that it uses their new state.
        if received.templates {
            self.templates.refresh().await?;
        }
        let lanes = self.templates.take_new_lanes();
        if lanes {
            self.registry.relane(&self.templates.lanes());
        }
        let anew = received.anew || received.gone;
        if anew {
            self.admission.invalidate();
        }
        if received.gone {
            self.templates.forget_lanes().await?;
            self.registry.relane(&self.templates.lanes());
        }
        if lanes || anew || received.services {
            let opened = self.admission.refresh(&self.db, &self.templates).await?;
            self.registry.mark_active(opened);
        }
        if received.listened {
            self.membership.listened.store(true, Ordering::Relaxed);
        }
        // A change of a service or a template is an event too.
        if received.events || received.services || received.templates {
            self.events.wake_reader();
        }
        if received.work {
            self.registry.mark_all_active();
        }
        if received.moved {
            let watched = self.watchers.watched();
            if !watched.is_empty() {
                let ended: HashSet<Uuid> = task::final_states(&self.db, &watched)
                    .await?
                    .into_iter()
                    .collect();
                self.watchers
                    .notify(watched.into_iter().map(|id| (id, ended.contains(&id))));
            }
        }
        if received.cancels {
            let held = self.registry.leases();
            if !held.is_empty() {
                for (lease, cancelled) in worker::dead_leases(&self.db, &held).await? {
                    let reason = if cancelled {
                        CancelReason::TaskCancelled
                    } else {
                        CancelReason::LeaseLost
                    };
                    self.registry.cancel(lease, reason);
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
    membership: Arc<Membership>,
    sender: mpsc::Sender<Notification>,
    shutdown: CancellationToken,
) {
    while !shutdown.is_cancelled() {
        if let Err(error) = listen_once(&db, &membership, &sender).await {
            tracing::debug!(%error, "the notification connection ended");
        }
        tokio::time::sleep(jitter(Duration::from_millis(500))).await;
    }
}

async fn listen_once(
    db: &Db,
    membership: &Membership,
    sender: &mpsc::Sender<Notification>,
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
                let everything = Notification {
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
                    let news = membership.read(n.payload());
                    if news != Notification::default() {
                        membership.others.fetch_max(1, Ordering::Relaxed);
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
