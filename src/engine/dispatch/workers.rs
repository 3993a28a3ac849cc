//! The connected workers, with their free slots and attempts in flight, and the lanes in which steps
//! may wait for them. Plain data under the registry's lock.

use std::{sync::Arc, time::Instant};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    lanes::{LaneState, Lanes},
    message::CancelReason,
    outbox::Outbox,
};
use crate::{
    domain::lease::Lease,
    engine::{
        hash::{HashMap, HashSet},
        plan::compiled::Plan,
    },
    store::{pipeline::LaneDemand, template::LaneRow},
};

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
pub(super) struct InFlight {
    pub(super) plan: Option<Arc<Plan>>,
    pub(super) deadline: Instant,
}

pub(super) struct ConnectedWorker {
    pub(super) profile: Profile,
    pub(super) lanes: Arc<[i32]>,
    pub(super) in_flight: HashMap<Lease, InFlight>,
    pub(super) reserved: usize,
    /// Answers received and not yet acknowledged.
    pub(super) unacknowledged: usize,
    /// The worker or this server drains, so no assignment is sent.
    pub(super) closed: bool,
    pub(super) outbox: Outbox,
    /// Cancels the reading side of the stream.
    pub(super) stop: CancellationToken,
}

impl ConnectedWorker {
    /// The number of free slots. An answer frees its slot before it is stored. Up to `capacity`
    /// answers may wait for their commit; each further one occupies a slot, so a worker faster than
    /// the database does not build a backlog on either side. A worker whose outbox is full has no
    /// free slot.
    pub(super) fn free(&self) -> usize {
        let capacity = self.profile.capacity;
        let taken =
            self.in_flight.len() + self.reserved + self.unacknowledged.saturating_sub(capacity);
        if self.closed || !self.outbox.queued.has_room() {
            0
        } else {
            capacity.saturating_sub(taken)
        }
    }

    pub(super) fn serves(&self, lane: i32) -> bool {
        self.lanes.binary_search(&lane).is_ok()
    }

    pub(super) fn relane(&mut self, lanes: &[LaneRow]) {
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
pub(super) struct Workers {
    pub(super) by_id: HashMap<Uuid, ConnectedWorker>,
    /// Streams that are about to be added to `by_id`.
    pub(super) opening: usize,
    /// Claims that are being committed or delivered, with the reason if they were cancelled
    /// meanwhile.
    pub(super) claiming: HashMap<Lease, Option<CancelReason>>,
    /// The states of the lanes.
    pub(super) lanes: Lanes,
    pub(super) draining: bool,
    /// The workers' limits on assignment size differ, so a scan up to one limit does not prove a
    /// lane idle.
    pub(super) limits_differ: bool,
}

impl Workers {
    /// Whether a scan of this lane reads the steps for every worker: no other worker takes larger
    /// assignments.
    pub(super) fn covers(&self, lane: &LaneDemand) -> bool {
        !self.limits_differ
            || !self
                .by_id
                .values()
                .any(|c| c.profile.max_assignment_bytes > lane.bytes && c.serves(lane.lane_id))
    }

    /// Whether the worker has a free slot and one of its lanes is active.
    pub(super) fn could_serve(&self, worker_id: Uuid) -> bool {
        let waits_in = |lane: &i32| self.lanes.state(*lane) == LaneState::Active;
        let waits = |c: &ConnectedWorker| c.free() > 0 && c.lanes.iter().any(waits_in);
        self.by_id.get(&worker_id).is_some_and(waits)
    }
}
