//! The workers connected to this server, with their capabilities, free slots and attempts in
//! flight.
//!
//! One short lock, never held across an await. A loop reserves a slot before the transaction that
//! may fill it, and an unused slot is released. So no worker gets more assignments than it has
//! slots, whichever loop claims for it.

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

/// Maximum worker streams per server.
pub const MAX_CONNECTIONS: usize = 5_000;

/// The reason for asking a worker to stop a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelReason {
    TaskCancelled,
    TimedOut,
    LeaseLost,
}

/// A message on a worker's stream.
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
    /// The stream ends because the worker registered elsewhere or was given up.
    Superseded,
    /// The stream ends because the server shuts down.
    Closing,
    /// The stream ends because the server has lost its database; the worker continues at another
    /// server.
    CutOff,
}

/// A worker's registration.
pub struct Profile {
    pub worker_id: Uuid,
    pub name: String,
    /// Empty for all.
    pub namespaces: HashSet<String>,
    pub handlers: HashSet<String>,
    pub capacity: usize,
    /// Maximum size of an assignment, in bytes.
    pub max_assignment_bytes: i32,
}

/// A step that a worker holds.
struct InFlight {
    plan: Option<Arc<Plan>>,
    deadline: Instant,
}

struct Connection {
    profile: Profile,
    lanes: Arc<[i32]>,
    in_flight: HashMap<Lease, InFlight>,
    reserved: usize,
    /// Answers received and not yet acknowledged.
    unacknowledged: usize,
    /// The worker or this server drains, so no assignment is sent.
    closed: bool,
    outbox: Outbox,
    /// Cancels the reading side of the stream.
    stop: CancellationToken,
}

impl Connection {
    /// The number of free slots. An answer frees its slot before it is stored. Up to `capacity`
    /// answers may wait for their commit; each further one occupies a slot, so a worker faster than
    /// the database does not build a backlog on either side. A worker whose outbox is full has no
    /// free slot.
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
    /// Streams that are about to be added to `by_id`.
    opening: usize,
    /// Claims that are being committed or delivered, with the reason if they were cancelled
    /// meanwhile.
    promised: HashMap<Lease, Option<CancelReason>>,
    /// Idle lanes: no step waits in them as far as this server knows, so a freed slot needs no
    /// scan.
    quiet: HashSet<i32>,
    /// Lanes being scanned. A lane becomes idle only if the scan drains it and nothing was enqueued
    /// during the scan.
    looked_at: HashSet<i32>,
    /// The time of the next retry, as far as this server knows.
    next_retry: Option<Instant>,
    draining: bool,
    /// The workers' limits on assignment size differ, so a scan up to one limit does not prove a
    /// lane idle.
    limits_differ: bool,
}

impl Connections {
    /// Marks a lane active: it leaves `quiet`, and a scan under way cannot put it back.
    fn is_loud(&mut self, lane: i32) {
        self.quiet.remove(&lane);
        self.looked_at.remove(&lane);
    }

    fn all_loud(&mut self) {
        self.quiet.clear();
        self.looked_at.clear();
    }

    /// Whether the worker has a free slot and one of its lanes is active.
    fn could_serve(&self, worker_id: Uuid) -> bool {
        let waits_in = |lane: &i32| !self.quiet.contains(lane) && !self.looked_at.contains(lane);
        let waits = |c: &Connection| c.free() > 0 && c.lanes.iter().any(waits_in);
        self.by_id.get(&worker_id).is_some_and(waits)
    }
}

/// The worker streams of this server.
pub struct Hub {
    connections: Mutex<Connections>,
    max_connections: usize,
    /// Wakes the dispatch loop: a free slot and a waiting step may coincide.
    kick: Notify,
    /// Wakes the deadline loop: an attempt has started.
    sooner: Notify,
    /// Wakes the retry timer: a retry is due earlier than the one it waits for.
    retry_sooner: Notify,
}

impl Default for Hub {
    fn default() -> Self {
        Self::with_room_for(MAX_CONNECTIONS)
    }
}

/// Reserved capacity for one stream while it opens.
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

    /// Reserves capacity for one stream; `None` at [`MAX_CONNECTIONS`]. Must be called before a
    /// worker's leases move to the new stream, so that a refused worker keeps its leases.
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

    /// Adds a stream, with the leases that its worker brings and their remaining times. The hub
    /// cancels `stop` when it removes the stream.
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

    /// Removes a stream, which ends after its outbox is sent. Returns the worker's leases.
    pub fn remove(&self, worker_id: Uuid) -> Vec<Lease> {
        let Some(connection) = self.lock().by_id.remove(&worker_id) else {
            return Vec::new();
        };
        connection.stop.cancel();
        connection.in_flight.into_keys().collect()
    }

    /// Frees the slot of an attempt that was answered. Returns the step's plan if this server knows
    /// it.
    pub fn answered(&self, worker_id: Uuid, lease: Lease) -> Option<Arc<Plan>> {
        let mut all = self.lock();
        let c = all.by_id.get_mut(&worker_id)?;
        c.unacknowledged += 1;
        c.in_flight.remove(&lease)?.plan
    }

    /// The number of a worker's answers without an acknowledgement.
    pub fn unacknowledged(&self, worker_id: Uuid) -> usize {
        self.lock()
            .by_id
            .get(&worker_id)
            .map_or(0, |c| c.unacknowledged)
    }

    /// Stops assignments to a worker.
    pub fn close(&self, worker_id: Uuid) {
        if let Some(c) = self.lock().by_id.get_mut(&worker_id) {
            c.closed = true;
        }
    }

    /// Stops assignments to all workers, present and future, and notifies them.
    pub fn drain(&self, grace: Duration) {
        let mut all = self.lock();
        all.draining = true;
        for c in all.by_id.values_mut() {
            c.closed = true;
            c.outbox.send(ToWorker::Draining { grace });
        }
    }

    /// Ends all streams with the message `why`; the workers keep their leases. Returns the number
    /// of streams.
    pub fn close_all(&self, why: impl Fn() -> ToWorker) -> usize {
        let closed: Vec<Connection> = self.lock().by_id.drain().map(|(_, c)| c).collect();
        for c in &closed {
            c.outbox.send(why());
            // A worker that does not read its stream must not extend its lease by heartbeats
            // either.
            c.stop.cancel();
        }
        closed.len()
    }

    /// The number of attempts in flight on this server.
    pub fn in_flight(&self) -> usize {
        self.lock().by_id.values().map(|c| c.in_flight.len()).sum()
    }

    /// The numbers of workers, of attempts in flight, and of free slots.
    pub fn slots(&self) -> (usize, usize, usize) {
        let all = self.lock();
        let used = all.by_id.values().map(|c| c.in_flight.len()).sum();
        (
            all.by_id.len(),
            used,
            all.by_id.values().map(Connection::free).sum(),
        )
    }

    /// Whether a worker has no attempt in flight.
    pub fn holds_nothing(&self, worker_id: Uuid) -> bool {
        self.lock()
            .by_id
            .get(&worker_id)
            .is_none_or(|c| c.in_flight.is_empty())
    }

    /// The workers with a stream on this server.
    pub fn workers(&self) -> Vec<Uuid> {
        self.lock().by_id.keys().copied().collect()
    }

    /// The leases held by workers of this server.
    pub fn leases(&self) -> Vec<Lease> {
        self.lock()
            .by_id
            .values()
            .flat_map(|c| c.in_flight.keys().copied())
            .collect()
    }

    /// Recomputes the lanes of each worker after lanes were added or removed. `lanes` must be
    /// sorted by id.
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

    /// Sends a message to a worker. Returns false if the worker is gone or its outbox is full; a
    /// full outbox closes the stream.
    pub fn send(&self, worker_id: Uuid, message: ToWorker) -> bool {
        let mut all = self.lock();
        let Some(c) = all.by_id.get_mut(&worker_id) else {
            return false;
        };
        // The acknowledgement frees its place even if it cannot be sent.
        if matches!(message, ToWorker::Ack { .. }) {
            c.unacknowledged = c.unacknowledged.saturating_sub(1);
        }
        if c.outbox.send(message) {
            return true;
        }
        tracing::warn!(%worker_id, name = c.profile.name, "a worker does not read its stream; the stream is closed");
        // Its heartbeats must stop too: they would extend leases that this server no longer tracks.
        c.stop.cancel();
        c.outbox.discard();
        all.by_id.remove(&worker_id);
        false
    }

    /// Asks the holder of a lease to stop, and frees the slot. A claim that is not delivered yet
    /// will not be sent. Returns false if no worker here holds the lease.
    pub fn cancel(&self, lease: Lease, reason: CancelReason) -> bool {
        let mut all = self.lock();
        // A claim under way is only marked; `Reservation::deliver` then does not send it.
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

    /// The number of steps of these lanes that workers of this server can run at once.
    pub fn slots_for(&self, lanes: &[i32]) -> u32 {
        let all = self.lock();
        let serving = all
            .by_id
            .values()
            .filter(|c| !c.closed && lanes.iter().any(|lane| c.serves(*lane)));
        u32::try_from(serving.map(|c| c.profile.capacity).sum::<usize>()).unwrap_or(u32::MAX)
    }

    /// The leases of one task held by workers of this server.
    pub fn leases_of(&self, task_id: Uuid) -> Vec<Lease> {
        let all = self.lock();
        all.by_id
            .values()
            .flat_map(|c| c.in_flight.keys().filter(|l| l.task_id == task_id).copied())
            .collect()
    }

    /// The leases whose deadline passed. A lease is reported again after `again` if it is still
    /// held.
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

    /// The earliest deadline of a lease of this server.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.lock()
            .by_id
            .values()
            .flat_map(|c| c.in_flight.values().map(|f| f.deadline))
            .min()
    }

    /// Sets the retry timer to fire after `after`, unless it fires earlier.
    pub fn retry_in(&self, after: Duration) {
        let at = Instant::now() + after;
        let mut all = self.lock();
        if all.next_retry.is_none_or(|known| at < known) {
            all.next_retry = Some(at);
            drop(all);
            self.retry_sooner.notify_one();
        }
    }

    /// Waits until the retry timer fires, and clears it.
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

    /// Waits until an attempt starts, whose deadline may be the earliest.
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
