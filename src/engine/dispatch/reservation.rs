//! Slots of workers, reserved before the transaction that may fill them.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc, time::Instant};

use uuid::Uuid;

use super::{
    assignment::Assignment,
    lanes::LaneState,
    message::ToWorker,
    outbox::Queued,
    registry::Registry,
    workers::{ConnectedWorker, InFlight},
};
use crate::{domain::lease::Lease, engine::hash::HashMap, store::pipeline::LaneDemand};

struct ReservedSlots {
    worker_id: Uuid,
    lanes: Arc<[i32]>,
    /// Maximum size of an assignment, in bytes.
    limit: i32,
    queued: Arc<Queued>,
    /// Reserved and not yet delivered.
    held: usize,
    /// Of `held`, the slots not yet allocated to a step.
    open: usize,
}

/// Slots that no other loop can fill. Undelivered slots are released on drop.
pub struct SlotReservation {
    registry: Arc<Registry>,
    slots: Vec<ReservedSlots>,
    allocated: Vec<(Lease, Uuid)>,
    /// Sizes of the allocated assignments, counted in the outboxes until the reservation is
    /// dropped.
    weights: Vec<(Arc<Queued>, usize)>,
}

/// The number of steps per lane that these slots can take, and their largest size.
fn demand_of<'a>(slots: impl Iterator<Item = (&'a [i32], usize, i32)>) -> Vec<LaneDemand> {
    let mut demand: BTreeMap<i32, (usize, i32)> = BTreeMap::new();
    for (lanes, open, limit) in slots.filter(|(_, open, _)| *open > 0) {
        for lane in lanes {
            let (n, bytes) = demand.entry(*lane).or_default();
            (*n, *bytes) = (*n + open, limit.max(*bytes));
        }
    }
    let of = |(lane_id, (n, bytes))| LaneDemand {
        lane_id,
        limit: i32::try_from(n).unwrap_or(i32::MAX),
        bytes,
    };
    demand.into_iter().map(of).collect()
}

impl Registry {
    /// The number of free slots per lane, without a reservation.
    pub fn demand(&self) -> Vec<LaneDemand> {
        demand_of(
            self.lock()
                .by_id
                .values()
                .map(|c| (&*c.lanes, c.free(), c.profile.max_assignment_bytes)),
        )
    }

    /// Reserves up to the given number of slots per lane, from the workers with the most free
    /// slots.
    pub fn reserve(self: &Arc<Self>, lanes: &BTreeMap<i32, usize>) -> SlotReservation {
        self.reserve_for(
            &lanes
                .iter()
                .map(|(lane, count)| ((*lane, Reverse(0)), *count))
                .collect(),
        )
    }

    /// The same with the sizes of the assignments, in bytes: the largest are served first.
    pub fn reserve_for(
        self: &Arc<Self>,
        lanes: &BTreeMap<(i32, Reverse<i32>), usize>,
    ) -> SlotReservation {
        let mut slots: HashMap<Uuid, ReservedSlots> = HashMap::default();
        if lanes.is_empty() {
            return SlotReservation::new(self, slots);
        }
        let mut all = self.lock();
        let mut take = |c: &mut ConnectedWorker, n: usize| {
            c.reserved += n;
            let s = slots
                .entry(c.profile.worker_id)
                .or_insert_with(|| ReservedSlots {
                    worker_id: c.profile.worker_id,
                    lanes: Arc::clone(&c.lanes),
                    limit: c.profile.max_assignment_bytes,
                    queued: Arc::clone(&c.outbox.queued),
                    held: 0,
                    open: 0,
                });
            s.held += n;
            s.open += n;
        };
        for ((lane, Reverse(bytes)), count) in lanes {
            let takes =
                |c: &ConnectedWorker| c.profile.max_assignment_bytes >= *bytes && c.serves(*lane);
            let mut servers: Vec<&mut ConnectedWorker> = all
                .by_id
                .values_mut()
                .filter(|c| c.free() > 0 && takes(c))
                .collect();
            servers.sort_unstable_by_key(|c| Reverse(c.free()));
            let mut missing = *count;
            for c in servers {
                let n = c.free().min(missing);
                if n == 0 {
                    break;
                }
                take(c, n);
                missing -= n;
            }
        }
        drop(all);
        SlotReservation::new(self, slots)
    }
}

impl ReservedSlots {
    fn takes(&self, lane_id: i32, bytes: i32) -> bool {
        self.open > 0
            && self.limit >= bytes
            && self.lanes.binary_search(&lane_id).is_ok()
            && self.queued.has_room()
    }
}

impl SlotReservation {
    fn new(registry: &Arc<Registry>, slots: HashMap<Uuid, ReservedSlots>) -> Self {
        Self {
            registry: Arc::clone(registry),
            slots: slots.into_values().collect(),
            allocated: Vec::new(),
            weights: Vec::new(),
        }
    }

    /// Whether no slot was reserved.
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The active lanes of the reserved workers, with the number of steps that could take a slot.
    /// Idle lanes need no scan and are left out.
    pub fn demand(&self) -> Vec<LaneDemand> {
        if self.is_empty() {
            return Vec::new();
        }
        let mut demand = demand_of(
            self.slots
                .iter()
                .map(|slot| (&*slot.lanes, slot.open, slot.limit)),
        );
        let all = self.registry.lock();
        demand.retain(|lane| all.lanes.state(lane.lane_id) != LaneState::Idle);
        demand
    }

    /// Whether every slot is allocated.
    pub fn is_used_up(&self) -> bool {
        self.slots.iter().all(|s| s.open == 0)
    }

    /// Whether a slot takes a step of this lane with an assignment of `bytes` bytes.
    pub fn has_slot(&self, lane_id: i32, bytes: i32) -> bool {
        self.slots.iter().any(|s| s.takes(lane_id, bytes))
    }

    /// Allocates a slot to a claim, on the fitting worker with the most open slots.
    pub fn allocate(&mut self, lane_id: i32, bytes: i32, lease: Lease) -> Option<Uuid> {
        let slot = self
            .slots
            .iter_mut()
            .filter(|s| s.takes(lane_id, bytes))
            .max_by_key(|s| s.open)?;
        slot.open -= 1;
        if bytes > 0 {
            let bytes = usize::try_from(bytes).unwrap_or_default();
            slot.queued.add(bytes);
            self.weights.push((Arc::clone(&slot.queued), bytes));
        }
        self.allocated.push((lease, slot.worker_id));
        Some(slot.worker_id)
    }

    /// The claims allocated so far. After a commit of uncertain outcome, each may exist in the
    /// database.
    pub fn allocated(&self) -> &[(Lease, Uuid)] {
        &self.allocated
    }

    /// Makes the allocated claims cancellable. Must be called before their commit: once it is done,
    /// another transaction may end an attempt before its assignment is sent.
    pub fn announce(&self) {
        if !self.allocated.is_empty() {
            self.registry
                .lock()
                .claiming
                .extend(self.allocated.iter().map(|(lease, _)| (*lease, None)));
        }
    }

    /// Sends a committed claim to its worker. Returns false if the attempt cannot reach it: the
    /// worker is gone, or the assignment exceeds its limit.
    pub fn deliver(&mut self, assignment: Assignment) -> bool {
        let (worker_id, lease) = (assignment.worker_id, assignment.lease);
        let in_flight = InFlight {
            plan: Some(Arc::clone(&assignment.plan)),
            deadline: Instant::now() + assignment.timeout,
        };
        if let Some(slot) = self.slots.iter_mut().find(|s| s.worker_id == worker_id) {
            slot.held = slot.held.saturating_sub(1);
        }
        {
            // One lock for both: a cancellation finds the lease among the claims under way or in
            // flight.
            let mut all = self.registry.lock();
            let cancelled = all.claiming.remove(&lease).flatten();
            let Some(c) = all.by_id.get_mut(&worker_id) else {
                return false;
            };
            c.reserved = c.reserved.saturating_sub(1);
            if assignment.bytes()
                > usize::try_from(c.profile.max_assignment_bytes).unwrap_or_default()
            {
                // The queue row understated the size. The worker's gRPC library would end the
                // stream.
                tracing::error!(%worker_id, ?lease, bytes = assignment.bytes(), "an assignment exceeds its computed size; it is not sent");
                return false;
            }
            if cancelled.is_some() {
                // The attempt has ended already, so its assignment is not sent.
                drop(all);
                self.registry.request_scan();
                return true;
            }
            c.in_flight.insert(lease, in_flight);
        }
        self.registry.attempt_started.notify_one();
        self.registry
            .send(worker_id, ToWorker::Assign(Box::new(assignment)))
    }
}

/// Sends committed assignments to their workers. Returns the leases of those whose worker is gone,
/// with that worker.
pub fn deliver(
    assignments: Vec<Assignment>,
    mut reservation: SlotReservation,
) -> Vec<(Lease, Uuid)> {
    assignments
        .into_iter()
        .filter_map(|assignment| {
            let holder = (assignment.lease, assignment.worker_id);
            (!reservation.deliver(assignment)).then_some(holder)
        })
        .collect()
}

impl Drop for SlotReservation {
    fn drop(&mut self) {
        if self.is_empty() {
            return;
        }
        self.weights
            .iter()
            .for_each(|(queued, bytes)| queued.subtract(*bytes));
        let mut all = self.registry.lock();
        for (lease, _) in &self.allocated {
            all.claiming.remove(lease);
        }
        for slot in &self.slots {
            if let Some(c) = all.by_id.get_mut(&slot.worker_id) {
                c.reserved = c.reserved.saturating_sub(slot.held);
            }
        }
        // A loop that found these slots taken may have left a step waiting for one.
        if self
            .slots
            .iter()
            .any(|slot| slot.held > 0 && all.could_serve(slot.worker_id))
        {
            drop(all);
            self.registry.request_scan();
        }
    }
}
