//! The workers connected to this server, with their capabilities, free slots and attempts in
//! flight.
//!
//! One short lock, never held across an await. A loop reserves a slot before the transaction that
//! may fill it, and an unused slot is released. So no worker gets more assignments than it has
//! slots, whichever loop claims for it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    message::{CancelReason, ToWorker},
    outbox::Outbox,
    workers::{ConnectedWorker, InFlight, Profile, Workers},
};
use crate::{
    domain::lease::Lease,
    engine::{hash::HashMap, plan::compiled::Plan},
    store::template::LaneRow,
};

/// Maximum worker streams per server.
pub const MAX_CONNECTIONS: usize = 5_000;

/// The worker streams of this server.
pub struct Registry {
    workers: Mutex<Workers>,
    max_connections: usize,
    /// Wakes the dispatch loop: a free slot and a waiting step may coincide.
    pub(super) scan_requests: Notify,
    /// Wakes the deadline loop: an attempt has started.
    pub(super) attempt_started: Notify,
}

impl Default for Registry {
    fn default() -> Self {
        Self::with_room_for(MAX_CONNECTIONS)
    }
}

/// Reserved capacity for one stream while it opens.
pub struct StreamReservation {
    registry: Arc<Registry>,
}

impl Drop for StreamReservation {
    fn drop(&mut self) {
        self.registry.lock().opening -= 1;
    }
}

impl Registry {
    pub(super) fn with_room_for(max_connections: usize) -> Self {
        Self {
            workers: Mutex::default(),
            max_connections,
            scan_requests: Notify::new(),
            attempt_started: Notify::new(),
        }
    }

    /// Reserves capacity for one stream; `None` at [`MAX_CONNECTIONS`]. Must be called before a
    /// worker's leases move to the new stream, so that a refused worker keeps its leases.
    pub fn reserve_stream(self: &Arc<Self>) -> Option<StreamReservation> {
        let mut all = self.lock();
        if all.by_id.len() + all.opening >= self.max_connections {
            return None;
        }
        all.opening += 1;
        Some(StreamReservation {
            registry: Arc::clone(self),
        })
    }

    /// Adds a stream, with the leases that its worker brings and their remaining times. The registry
    /// cancels `stop` when it removes the stream.
    pub fn add(
        &self,
        _room: StreamReservation,
        profile: Profile,
        held: Vec<(Lease, Duration)>,
        lanes: &[LaneRow],
        outbox: Outbox,
        stop: CancellationToken,
    ) {
        let mut all = self.lock();
        let worker_id = profile.worker_id;
        let mut connection = ConnectedWorker {
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
        self.attempt_started.notify_one();
        self.request_scan();
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
        let closed: Vec<ConnectedWorker> = self.lock().by_id.drain().map(|(_, c)| c).collect();
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
            all.by_id.values().map(ConnectedWorker::free).sum(),
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
        all.lanes
            .retain(|id| lanes.binary_search_by_key(&id, |lane| lane.lane_id).is_ok());
        drop(all);
        self.request_scan();
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
        // A claim under way is only marked; `SlotReservation::deliver` then does not send it.
        if let Some(cancelled) = all.claiming.get_mut(&lease) {
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
        self.request_scan();
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

    /// Closes the streams on which messages have waited for `limit` without one being read. Their
    /// workers keep their leases.
    pub fn close_stalled(&self, limit: Duration) {
        self.lock().by_id.retain(|worker_id, c| {
            let stalled = c.outbox.is_stalled(limit);
            if stalled {
                tracing::warn!(%worker_id, name = c.profile.name, ?limit, "a worker has not read its stream within the limit; the stream is closed");
                c.stop.cancel();
                c.outbox.discard();
            }
            !stalled
        });
    }

    /// Waits until an attempt starts, whose deadline may be the earliest.
    pub async fn attempt_started(&self) {
        self.attempt_started.notified().await;
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Workers> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
