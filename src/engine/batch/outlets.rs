//! The parts of the engine that a committed transaction affects.

use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::{
    kind::Batch,
    publish::{Committed, Outlets},
    queue::SettleQueue,
};
use crate::{
    domain::lease::Lease,
    engine::{
        admission::{control::Call, reservation::CapacityReservation},
        context::EngineContext,
        decide::input::Input,
        dispatch::{
            assignment::Assignment,
            message::{CancelReason, ToWorker},
            reservation::{self, SlotReservation},
        },
        hash::HashSet,
    },
};

/// The engine, as the receiver of one transaction's effects. Most transactions lack some of them,
/// and take no lock for these.
pub struct EngineOutlets<'a, B: Batch> {
    pub context: &'a EngineContext,
    pub settle: &'a SettleQueue,
    pub batch: &'a mut B,
    pub inputs: Vec<B::Input>,
    pub replies: B::Replies,
    /// The number of waiting steps that were claimed.
    pub claimed: usize,
}

impl<B: Batch> Outlets for EngineOutlets<'_, B> {
    type Unfinished = Vec<B::Input>;

    fn wake_event_reader(&mut self) {
        self.context.events.written();
    }

    fn cache_payloads(&mut self, committed: &mut Committed<'_>) {
        let Committed {
            payloads,
            applied,
            changes,
            ..
        } = committed;
        self.context.payloads.update(payloads, applied, changes);
    }

    fn count(&mut self, committed: &Committed<'_>, now: SystemTime) {
        let Committed {
            changes,
            plans,
            applied,
            ..
        } = committed;
        let size = B::size(self.inputs.len(), changes, self.claimed);
        self.context
            .committed(B::LOOP, size, applied.took, changes, plans, now);
    }

    fn cache_attempts(&mut self, committed: &Committed<'_>, now: SystemTime) {
        let attempts = &self.context.attempts;
        attempts.update(committed.changes, now);
        // Evicted after the update: the cached rows lack the effects of a command or a planner,
        // such as a pause or new settings.
        if !committed.evicted.is_empty() {
            attempts.evict(committed.evicted.iter().copied());
        }
    }

    fn use_capacity(&mut self, capacity: CapacityReservation, lost: &HashSet<Lease>) {
        let admitted = capacity.commit(true, lost);
        if !admitted.is_empty() {
            self.context.registry.mark_active(admitted);
        }
    }

    fn count_calls(&mut self, calls: &[Call], now: SystemTime) {
        if !calls.is_empty() {
            self.context.admission.count_calls(calls, now);
        }
    }

    fn set_retry_timer(&mut self, after: Duration) {
        self.context.retry_timer.fire_in(after);
    }

    fn deliver(&mut self, assignments: Vec<Assignment>, slots: SlotReservation) {
        for (lease, worker_id) in reservation::deliver(assignments, slots) {
            // The worker has left, so its step has to wait for another one. Never waits for
            // capacity of the queue, which the settle loop itself may be the one to free.
            let undelivered = Input::undelivered(lease, worker_id);
            self.settle.requeue(undelivered.into());
        }
    }

    fn acknowledge(&mut self, worker_id: Uuid, lease: Lease, accepted: bool) {
        if !accepted {
            self.context.metrics.results_stale.add(1);
        }
        self.context
            .registry
            .send(worker_id, ToWorker::Ack { lease, accepted });
    }

    fn cancel(&mut self, lease: Lease, reason: CancelReason) {
        self.context.registry.cancel(lease, reason);
    }

    fn expire(&mut self, task_id: Uuid) {
        self.settle.expire(task_id);
    }

    fn notify_watchers(&mut self, tasks: Vec<(Uuid, bool)>) {
        if !tasks.is_empty() {
            self.context.watchers.notify(tasks);
        }
    }

    fn mark_active(&mut self, lanes: HashSet<i32>) {
        if !lanes.is_empty() {
            // Lanes of closed services stay as they are: the opening of the service marks them.
            let admitted = self.context.admission.admitted(lanes);
            self.context.registry.mark_active(admitted);
        }
    }

    fn slots_freed(&mut self, workers: Vec<Uuid>) {
        if !workers.is_empty() {
            self.context.registry.slots_freed(workers);
        }
    }

    async fn reply(self) -> Vec<B::Input> {
        self.batch
            .reply(self.inputs, self.replies, self.claimed)
            .await
    }
}
