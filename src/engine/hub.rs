//! The workers connected to this server: what each can do, how many slots it has free, and what it holds.
//!
//! One short lock, never held across an await. A slot is reserved before the transaction that may fill it and given back
//! if it did not, so no worker is ever sent more than it asked for, whichever loop claims for it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use super::{assignment::Assignment, catalog::Plan};
use crate::{
    domain::lease::Lease,
    store::{hot::LaneDemand, template::LaneRow},
};

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
}

/// What a worker said about itself.
pub struct Profile {
    pub worker_id: Uuid,
    pub name: String,
    /// Empty: all.
    pub namespaces: HashSet<String>,
    pub handlers: HashSet<String>,
    pub capacity: usize,
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
    outbox: mpsc::Sender<ToWorker>,
}

impl Connection {
    fn free(&self) -> usize {
        if self.closed { 0 } else { self.profile.capacity.saturating_sub(self.in_flight.len() + self.reserved) }
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
    /// Somebody wanted slots while they were reserved.
    contended: bool,
    /// When the next retry falls due, as far as known here.
    next_retry: Option<Instant>,
    draining: bool,
}

/// All worker streams of this server.
#[derive(Default)]
pub struct Hub {
    connections: Mutex<Connections>,
    /// Whether steps wait that found no slot: a hint, set by whoever leaves one and cleared by the dispatcher.
    backlog: AtomicBool,
    /// There may be a free slot and a step for it.
    kick: Notify,
    /// An attempt was handed out, so there is a deadline to watch.
    sooner: Notify,
    /// A retry falls due before the one that was waited for.
    retry_sooner: Notify,
}

/// How many slots to reserve.
pub enum Want<'a> {
    /// All that are free.
    All,
    /// At most so many, for steps of these lanes.
    Lanes(&'a BTreeMap<i32, usize>),
}

struct ReservedSlots {
    worker_id: Uuid,
    lanes: Arc<[i32]>,
    /// Reserved and not yet delivered.
    held: usize,
    /// Of these, not yet promised to a step.
    open: usize,
}

/// Slots that no other loop can fill; what was not delivered is free again when it is dropped.
pub struct Reservation {
    hub: Arc<Hub>,
    slots: Vec<ReservedSlots>,
}

impl Hub {
    /// Adds a stream, with the leases that its worker brought along and the time that each has left. `false` when there
    /// are [`MAX_CONNECTIONS`] already.
    pub fn add(
        &self,
        profile: Profile,
        held: Vec<(Lease, Duration)>,
        lanes: &[LaneRow],
        outbox: mpsc::Sender<ToWorker>,
    ) -> bool {
        let mut all = self.lock();
        if all.by_id.len() >= MAX_CONNECTIONS {
            return false;
        }
        let worker_id = profile.worker_id;
        let mut connection = Connection {
            profile,
            lanes: Arc::from([]),
            in_flight: HashMap::new(),
            reserved: 0,
            unacknowledged: 0,
            closed: all.draining,
            outbox,
        };
        let now = Instant::now();
        let in_flight = |(lease, remaining)| (lease, InFlight { plan: None, deadline: now + remaining });
        connection.in_flight.extend(held.into_iter().map(in_flight));
        connection.relane(lanes);
        all.by_id.insert(worker_id, connection);
        drop(all);
        self.sooner.notify_one();
        self.kick();
        true
    }

    /// Removes a stream and returns the leases its worker holds.
    pub fn remove(&self, worker_id: Uuid) -> Vec<Lease> {
        let connection = self.lock().by_id.remove(&worker_id);
        connection.map(|c| c.in_flight.into_keys().collect()).unwrap_or_default()
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
        self.lock().by_id.get(&worker_id).map_or(0, |c| c.unacknowledged)
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
            let _ = c.outbox.try_send(ToWorker::Draining { grace });
        }
    }

    /// Ends all streams. The workers' leases stay theirs.
    pub fn close_all(&self) {
        for (_, c) in self.lock().by_id.drain() {
            let _ = c.outbox.try_send(ToWorker::Closing);
        }
    }

    /// How many steps the workers of this server have.
    pub fn in_flight(&self) -> usize {
        self.lock().by_id.values().map(|c| c.in_flight.len()).sum()
    }

    /// All workers with a stream on this server.
    pub fn workers(&self) -> Vec<Uuid> {
        self.lock().by_id.keys().copied().collect()
    }

    /// All leases that the workers of this server hold.
    pub fn leases(&self) -> Vec<Lease> {
        self.lock().by_id.values().flat_map(|c| c.in_flight.keys().copied()).collect()
    }

    /// Sees which lanes each worker can serve, after new ones came into being.
    pub fn relane(&self, lanes: &[LaneRow]) {
        for c in self.lock().by_id.values_mut() {
            c.relane(lanes);
        }
        self.kick();
    }

    /// Sends to one worker. A worker that does not read what it is sent loses its stream.
    pub fn send(&self, worker_id: Uuid, message: ToWorker) -> bool {
        let mut all = self.lock();
        let Some(c) = all.by_id.get_mut(&worker_id) else { return false };
        if matches!(message, ToWorker::Ack { .. }) {
            c.unacknowledged = c.unacknowledged.saturating_sub(1);
        }
        if c.outbox.try_send(message).is_ok() {
            return true;
        }
        tracing::warn!(%worker_id, name = c.profile.name, "a worker does not read its stream; the stream is closed");
        all.by_id.remove(&worker_id);
        false
    }

    /// Tells whoever holds this lease to stop, and frees the slot. `false` when no worker here holds it.
    pub fn cancel(&self, lease: Lease, reason: CancelReason) -> bool {
        let mut all = self.lock();
        let holder = all.by_id.values_mut().find(|c| c.in_flight.contains_key(&lease));
        let Some(c) = holder else { return false };
        let plan = c.in_flight.remove(&lease).and_then(|f| f.plan);
        let step_name = plan.and_then(|p| p.step(lease.step).map(|s| s.name.clone())).unwrap_or_default();
        let sent = c.outbox.try_send(ToWorker::Cancel { lease, step_name, reason }).is_ok();
        drop(all);
        self.kick();
        sent
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
        self.lock().by_id.values().flat_map(|c| c.in_flight.values().map(|f| f.deadline)).min()
    }

    /// Reserves slots, from the workers with the most of them.
    pub fn reserve(self: &Arc<Self>, want: &Want<'_>) -> Reservation {
        let mut all = self.lock();
        let mut slots: HashMap<Uuid, ReservedSlots> = HashMap::new();
        let mut take = |c: &mut Connection, n: usize| {
            c.reserved += n;
            let s = slots.entry(c.profile.worker_id).or_insert_with(|| ReservedSlots {
                worker_id: c.profile.worker_id,
                lanes: Arc::clone(&c.lanes),
                held: 0,
                open: 0,
            });
            s.held += n;
            s.open += n;
        };
        let mut short = false;
        match want {
            Want::All => {
                for c in all.by_id.values_mut() {
                    short |= c.reserved > 0;
                    let n = c.free();
                    if n > 0 {
                        take(c, n);
                    }
                }
            }
            Want::Lanes(lanes) => {
                for (lane, count) in *lanes {
                    let mut servers: Vec<&mut Connection> = all
                        .by_id
                        .values_mut()
                        .filter(|c| c.free() > 0 && c.lanes.binary_search(lane).is_ok())
                        .collect();
                    servers.sort_unstable_by_key(|c| std::cmp::Reverse(c.free()));
                    let mut missing = *count;
                    for c in servers {
                        let n = c.free().min(missing);
                        if n == 0 {
                            break;
                        }
                        take(c, n);
                        missing -= n;
                    }
                    short |= missing > 0;
                }
            }
        }
        all.contended |= short;
        drop(all);
        Reservation { hub: Arc::clone(self), slots: slots.into_values().collect() }
    }

    /// Records whether steps wait that found no slot.
    pub fn set_backlog(&self, waiting: bool) {
        self.backlog.store(waiting, Ordering::Relaxed);
    }

    /// Slots came free: asks for a look at the waiting steps, if there are any.
    pub fn slots_freed(&self) {
        if self.backlog.load(Ordering::Relaxed) {
            self.kick();
        }
    }

    /// Asks for a look at the waiting steps.
    pub fn kick(&self) {
        self.kick.notify_one();
    }

    /// Waits for [`Hub::kick`].
    pub async fn kicked(&self) {
        self.kick.notified().await;
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
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reservation {
    /// Whether no slot was free.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The lanes that the reserved workers serve, and how many steps of each could find a slot.
    pub fn demand(&self) -> Vec<LaneDemand> {
        let mut demand: BTreeMap<i32, usize> = BTreeMap::new();
        for slot in &self.slots {
            for lane in slot.lanes.iter() {
                *demand.entry(*lane).or_default() += slot.open;
            }
        }
        demand
            .into_iter()
            .map(|(lane_id, n)| LaneDemand { lane_id, limit: i32::try_from(n).unwrap_or(i32::MAX) })
            .collect()
    }

    /// Whether every slot is promised.
    pub fn is_used_up(&self) -> bool {
        self.slots.iter().all(|s| s.open == 0)
    }

    /// Promises a slot to a step of this lane, on the worker with the most open ones.
    pub fn promise(&mut self, lane_id: i32) -> Option<Uuid> {
        let slot = self
            .slots
            .iter_mut()
            .filter(|s| s.open > 0 && s.lanes.binary_search(&lane_id).is_ok())
            .max_by_key(|s| s.open)?;
        slot.open -= 1;
        Some(slot.worker_id)
    }

    /// Sends a committed claim to its worker. `false` when the worker is gone: the attempt never reached it.
    pub fn deliver(&mut self, assignment: Assignment) -> bool {
        let (worker_id, lease) = (assignment.worker_id, assignment.lease);
        let in_flight =
            InFlight { plan: Some(Arc::clone(&assignment.plan)), deadline: Instant::now() + assignment.timeout };
        if let Some(slot) = self.slots.iter_mut().find(|s| s.worker_id == worker_id) {
            slot.held = slot.held.saturating_sub(1);
        }
        {
            let mut all = self.hub.lock();
            let Some(c) = all.by_id.get_mut(&worker_id) else { return false };
            c.reserved = c.reserved.saturating_sub(1);
            c.in_flight.insert(lease, in_flight);
        }
        self.hub.sooner.notify_one();
        self.hub.send(worker_id, ToWorker::Assign(Box::new(assignment)))
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut all = self.hub.lock();
        let mut returned = 0;
        for slot in &self.slots {
            if let Some(c) = all.by_id.get_mut(&slot.worker_id) {
                c.reserved = c.reserved.saturating_sub(slot.held);
                returned += slot.held;
            }
        }
        // Whoever found them taken looks again, now that there is something to find.
        if returned > 0 && std::mem::take(&mut all.contended) {
            drop(all);
            self.hub.kick();
        }
    }
}
