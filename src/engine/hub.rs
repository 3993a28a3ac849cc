//! The workers connected to this server: what each can do, how many slots it has free, and what it holds.
//!
//! One short lock, never held across an await. A slot is reserved before the transaction that may fill it and given back
//! if it did not, so no worker is ever sent more than it asked for, whichever loop claims for it.

mod looks;
mod outbox;
mod reservation;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use self::{
    outbox::{Inbox, MAX_QUEUED_BYTES, Outbox, outbox},
    reservation::Reservation,
};
use super::{assignment::Assignment, catalog::Plan};
use crate::engine::hash::{HashMap, HashSet};
use crate::{domain::lease::Lease, store::template::LaneRow};

/// The most worker streams on one server.
pub const MAX_CONNECTIONS: usize = 5_000;

/// Why a worker is told to stop a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelReason {
    TaskCancelled,
    TimedOut,
    LeaseLost,
}

/// What goes out on a worker's stream.
pub enum ToWorker {
    Assign(Box<Assignment>),
    Ack {
        lease: Lease,
        accepted: bool,
    },
    Cancel {
        lease: Lease,
        step_name: String,
        reason: CancelReason,
    },
    Draining {
        grace: Duration,
    },
    /// The stream ends: the worker registered elsewhere or was given up.
    Superseded,
    /// The stream ends: the server does.
    Closing,
    /// The stream ends: the server has lost its database, and the worker goes on at another one.
    CutOff,
}

/// What a worker said about itself.
pub struct Profile {
    pub worker_id: Uuid,
    pub name: String,
    /// Empty: all.
    pub namespaces: HashSet<String>,
    pub handlers: HashSet<String>,
    pub capacity: usize,
    /// The largest assignment that it takes, bytes.
    pub max_assignment_bytes: i32,
}

/// A step that a worker has.
struct InFlight {
    plan: Option<Arc<Plan>>,
    deadline: Instant,
}

struct Connection {
    profile: Profile,
    lanes: Arc<[i32]>,
    in_flight: HashMap<Lease, InFlight>,
    reserved: usize,
    /// Answers taken that were not acknowledged yet.
    unacknowledged: usize,
    /// No more assignments: the worker drains, or this server does.
    closed: bool,
    outbox: Outbox,
    /// Ends the reading side too.
    stop: CancellationToken,
}

impl Connection {
    /// An answer frees its slot before it is stored. As many answers as there are slots may wait for that; beyond, each
    /// takes a slot, so that a worker faster than the database does not pile them up on both sides. Nor does one get more that
    /// does not read what it has been sent.
    fn free(&self) -> usize {
        let capacity = self.profile.capacity;
        let taken =
            self.in_flight.len() + self.reserved + self.unacknowledged.saturating_sub(capacity);
        if self.closed || !self.outbox.queued.has_room() {
            0
        } else {
            capacity.saturating_sub(taken)
        }
    }

    fn serves(&self, lane: i32) -> bool {
        self.lanes.binary_search(&lane).is_ok()
    }

    fn relane(&mut self, lanes: &[LaneRow]) {
        let p = &self.profile;
        let mut mine: Vec<i32> = lanes
            .iter()
            .filter(|l| p.handlers.contains(&l.handler))
            .filter(|l| p.namespaces.is_empty() || p.namespaces.contains(&l.namespace))
            .map(|l| l.lane_id)
            .collect();
        mine.sort_unstable();
        self.lanes = mine.into();
    }
}

#[derive(Default)]
struct Connections {
    by_id: HashMap<Uuid, Connection>,
    /// Streams on their way to `by_id`.
    opening: usize,
    /// Claims that are being committed or delivered, and whether they were cancelled meanwhile.
    promised: HashMap<Lease, Option<CancelReason>>,
    /// Lanes in which no step waits, as far as known here: a slot that comes free for one of these needs no look.
    quiet: HashSet<i32>,
    /// Lanes that somebody looks at, and into which nothing came meanwhile. They are quiet if the look leaves nothing in
    /// them: until then, older steps may wait there.
    looked_at: HashSet<i32>,
    /// When the next retry falls due, as far as known here.
    next_retry: Option<Instant>,
    draining: bool,
    /// The limits of the workers differ: that a look has left nothing says nothing about what it did not look for.
    limits_differ: bool,
}

impl Connections {
    fn is_loud(&mut self, lane: i32) {
        self.quiet.remove(&lane);
        self.looked_at.remove(&lane);
    }

    fn all_loud(&mut self) {
        self.quiet.clear();
        self.looked_at.clear();
    }

    /// Whether a worker has a free slot and a step may wait for it.
    fn could_serve(&self, worker_id: Uuid) -> bool {
        let waits_in = |lane: &i32| !self.quiet.contains(lane) && !self.looked_at.contains(lane);
        let waits = |c: &Connection| c.free() > 0 && c.lanes.iter().any(waits_in);
        self.by_id.get(&worker_id).is_some_and(waits)
    }
}

/// All worker streams of this server.
pub struct Hub {
    connections: Mutex<Connections>,
    max_connections: usize,
    /// There may be a free slot and a step for it.
    kick: Notify,
    /// An attempt was handed out, so there is a deadline to watch.
    sooner: Notify,
    /// A retry falls due before the one that was waited for.
    retry_sooner: Notify,
}

impl Default for Hub {
    fn default() -> Self {
        Self::with_room_for(MAX_CONNECTIONS)
    }
}

/// Room for one more stream, held while it opens.
pub struct Room {
    hub: Arc<Hub>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.hub.lock().opening -= 1;
    }
}

impl Hub {
    fn with_room_for(max_connections: usize) -> Self {
        Self {
            connections: Mutex::default(),
            max_connections,
            kick: Notify::new(),
            sooner: Notify::new(),
            retry_sooner: Notify::new(),
        }
    }

    /// Room for one more stream; `None` when there are [`MAX_CONNECTIONS`] already. To be had before a worker's leases
    /// move to the new stream: one that is refused must find them as they were.
    pub fn room(self: &Arc<Self>) -> Option<Room> {
        let mut all = self.lock();
        if all.by_id.len() + all.opening >= self.max_connections {
            return None;
        }
        all.opening += 1;
        Some(Room {
            hub: Arc::clone(self),
        })
    }

    /// Adds a stream, with the leases that its worker brought along and the time that each has left. `stop` is cancelled
    /// when the hub lets go of it.
    pub fn add(
        &self,
        _room: Room,
        profile: Profile,
        held: Vec<(Lease, Duration)>,
        lanes: &[LaneRow],
        outbox: Outbox,
        stop: CancellationToken,
    ) {
        let mut all = self.lock();
        let worker_id = profile.worker_id;
        let mut connection = Connection {
            profile,
            lanes: Arc::from([]),
            in_flight: HashMap::default(),
            reserved: 0,
            unacknowledged: 0,
            closed: all.draining,
            outbox,
            stop,
        };
        let now = Instant::now();
        let in_flight = |(lease, remaining)| {
            (
                lease,
                InFlight {
                    plan: None,
                    deadline: now + remaining,
                },
            )
        };
        connection.in_flight.extend(held.into_iter().map(in_flight));
        connection.relane(lanes);
        let limit = connection.profile.max_assignment_bytes;
        all.limits_differ |= all
            .by_id
            .values()
            .any(|c| c.profile.max_assignment_bytes != limit);
        all.by_id.insert(worker_id, connection);
        drop(all);
        self.sooner.notify_one();
        self.kick();
    }

    /// Ends a stream after what is in its outbox, and returns the leases its worker holds.
    pub fn remove(&self, worker_id: Uuid) -> Vec<Lease> {
        let Some(connection) = self.lock().by_id.remove(&worker_id) else {
            return Vec::new();
        };
        connection.stop.cancel();
        connection.in_flight.into_keys().collect()
    }

    /// A worker answered: its slot is free from now on. Returns the plan of the step, if it is known here.
    pub fn answered(&self, worker_id: Uuid, lease: Lease) -> Option<Arc<Plan>> {
        let mut all = self.lock();
        let c = all.by_id.get_mut(&worker_id)?;
        c.unacknowledged += 1;
        c.in_flight.remove(&lease)?.plan
    }

    /// How many answers of a worker wait for their acknowledgement.
    pub fn unacknowledged(&self, worker_id: Uuid) -> usize {
        self.lock()
            .by_id
            .get(&worker_id)
            .map_or(0, |c| c.unacknowledged)
    }

    /// Stops assignments to one worker.
    pub fn close(&self, worker_id: Uuid) {
        if let Some(c) = self.lock().by_id.get_mut(&worker_id) {
            c.closed = true;
        }
    }

    /// Stops assignments to all workers, now and later, and tells them.
    pub fn drain(&self, grace: Duration) {
        let mut all = self.lock();
        all.draining = true;
        for c in all.by_id.values_mut() {
            c.closed = true;
            c.outbox.send(ToWorker::Draining { grace });
        }
    }

    /// Ends all streams and says why. The workers' leases stay theirs. Returns how many streams there were.
    pub fn close_all(&self, why: impl Fn() -> ToWorker) -> usize {
        let closed: Vec<Connection> = self.lock().by_id.drain().map(|(_, c)| c).collect();
        for c in &closed {
            c.outbox.send(why());
            // A worker that does not read its stream must not be heard any more either.
            c.stop.cancel();
        }
        closed.len()
    }

    /// How many steps the workers of this server have.
    pub fn in_flight(&self) -> usize {
        self.lock().by_id.values().map(|c| c.in_flight.len()).sum()
    }

    /// How many workers there are, how many steps they have, and how many more they could take.
    pub fn slots(&self) -> (usize, usize, usize) {
        let all = self.lock();
        let used = all.by_id.values().map(|c| c.in_flight.len()).sum();
        (
            all.by_id.len(),
            used,
            all.by_id.values().map(Connection::free).sum(),
        )
    }

    /// Whether a worker has answered everything that it was handed.
    pub fn holds_nothing(&self, worker_id: Uuid) -> bool {
        self.lock()
            .by_id
            .get(&worker_id)
            .is_none_or(|c| c.in_flight.is_empty())
    }

    /// All workers with a stream on this server.
    pub fn workers(&self) -> Vec<Uuid> {
        self.lock().by_id.keys().copied().collect()
    }

    /// All leases that the workers of this server hold.
    pub fn leases(&self) -> Vec<Lease> {
        self.lock()
            .by_id
            .values()
            .flat_map(|c| c.in_flight.keys().copied())
            .collect()
    }

    /// Sees which lanes each worker can serve, after new ones came into being or some are gone. `lanes` are in the order of their ids.
    pub fn relane(&self, lanes: &[LaneRow]) {
        let mut all = self.lock();
        for c in all.by_id.values_mut() {
            c.relane(lanes);
        }
        let is_there = |id: &i32| lanes.binary_search_by_key(id, |lane| lane.lane_id).is_ok();
        all.quiet.retain(is_there);
        drop(all);
        self.kick();
    }

    /// Sends to one worker. A worker that does not read what it is sent loses its stream.
    pub fn send(&self, worker_id: Uuid, message: ToWorker) -> bool {
        let mut all = self.lock();
        let Some(c) = all.by_id.get_mut(&worker_id) else {
            return false;
        };
        if matches!(message, ToWorker::Ack { .. }) {
            c.unacknowledged = c.unacknowledged.saturating_sub(1);
        }
        if c.outbox.send(message) {
            return true;
        }
        tracing::warn!(%worker_id, name = c.profile.name, "a worker does not read its stream; the stream is closed");
        // It must not be heard either: its heartbeats would keep leases that nobody here watches any more.
        c.stop.cancel();
        c.outbox.discard();
        all.by_id.remove(&worker_id);
        false
    }

    /// Tells whoever holds this lease to stop, and frees the slot. A claim that is not delivered yet never will be.
    /// `false` when no worker here holds it.
    pub fn cancel(&self, lease: Lease, reason: CancelReason) -> bool {
        let mut all = self.lock();
        if let Some(cancelled) = all.promised.get_mut(&lease) {
            *cancelled = Some(reason);
            return true;
        }
        let holder = all
            .by_id
            .values_mut()
            .find(|c| c.in_flight.contains_key(&lease));
        let Some(c) = holder else { return false };
        let plan = c.in_flight.remove(&lease).and_then(|f| f.plan);
        let step_name = plan
            .and_then(|p| p.step(lease.step).map(|s| s.name.clone()))
            .unwrap_or_default();
        let sent = c.outbox.send(ToWorker::Cancel {
            lease,
            step_name,
            reason,
        });
        drop(all);
        self.kick();
        sent
    }

    /// How many steps of any of these lanes the workers here could run at once.
    pub fn slots_for(&self, lanes: &[i32]) -> u32 {
        let all = self.lock();
        let serving = all
            .by_id
            .values()
            .filter(|c| !c.closed && lanes.iter().any(|lane| c.serves(*lane)));
        u32::try_from(serving.map(|c| c.profile.capacity).sum::<usize>()).unwrap_or(u32::MAX)
    }

    /// The leases of one task that workers of this server hold.
    pub fn leases_of(&self, task_id: Uuid) -> Vec<Lease> {
        let all = self.lock();
        all.by_id
            .values()
            .flat_map(|c| c.in_flight.keys().filter(|l| l.task_id == task_id).copied())
            .collect()
    }

    /// The leases whose deadline passed; they are reported once, then again after `again` if they are still there.
    pub fn overdue(&self, again: Duration) -> Vec<Lease> {
        let now = Instant::now();
        let mut overdue = Vec::new();
        for c in self.lock().by_id.values_mut() {
            for (lease, in_flight) in c.in_flight.iter_mut().filter(|(_, f)| f.deadline <= now) {
                overdue.push(*lease);
                in_flight.deadline = now + again;
            }
        }
        overdue
    }

    /// The next deadline of any lease here.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.lock()
            .by_id
            .values()
            .flat_map(|c| c.in_flight.values().map(|f| f.deadline))
            .min()
    }

    /// Says that a retry falls due after so long.
    pub fn retry_in(&self, after: Duration) {
        let at = Instant::now() + after;
        let mut all = self.lock();
        if all.next_retry.is_none_or(|known| at < known) {
            all.next_retry = Some(at);
            drop(all);
            self.retry_sooner.notify_one();
        }
    }

    /// Waits until the next retry known here falls due, and forgets it.
    pub async fn retry_due(&self) {
        loop {
            let next = self.lock().next_retry;
            let Some(at) = next else {
                self.retry_sooner.notified().await;
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until(at.into()) => {
                    let mut all = self.lock();
                    if all.next_retry == Some(at) {
                        all.next_retry = None;
                    }
                    return;
                }
                () = self.retry_sooner.notified() => {}
            }
        }
    }

    /// Waits until an attempt was handed out whose deadline may be the next.
    pub async fn sooner(&self) {
        self.sooner.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Connections> {
        self.connections
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
