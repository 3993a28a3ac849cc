//! The result that a worker reports, and the loss of an attempt.

use uuid::Uuid;

use super::{decision::Decision, input::PendingInput};
use crate::{
    domain::{
        attempt::{Outcome, OutcomeKind},
        lease::Lease,
    },
    engine::{dispatch::message::CancelReason, evaluate::verdicts::Verdicts, hash::HashMap},
    store::pipeline::Late,
};

impl Decision<'_> {
    /// Applies a worker's result, unless it needs an evaluation first.
    pub(super) fn result(
        &mut self,
        i: usize,
        (lease, worker_id): (Lease, Uuid),
        outcome: &Outcome,
        input: &PendingInput,
        past: &HashMap<Lease, OutcomeKind>,
    ) {
        // A duplicate within this batch gets the same acknowledgement.
        if let Some(accepted) = self.settled.get(&lease).copied() {
            self.late(lease, outcome, accepted);
            self.acks.push((worker_id, lease, accepted));
            return;
        }
        let holder = self.row(lease).and_then(|row| row.worker_id);
        if let Some(request) = self.unjudged(lease, outcome, input) {
            self.evaluations.insert(i, request);
            return;
        }
        let is_current = self.end_attempt(lease, outcome, None, &input.verdicts);
        if is_current && holder != Some(worker_id) {
            // Another worker brought the answer, so the holder is asked to stop.
            self.cancelled.push((lease, CancelReason::LeaseLost));
        }
        // Otherwise the attempt ended in an earlier transaction. If a worker's answer ended it,
        // this one is a duplicate and accepted; otherwise it is late.
        let earlier = past.get(&lease).map(|kind| kind.is_from_worker());
        self.late(lease, outcome, is_current || earlier.unwrap_or(true));
        let accepted = is_current || earlier.unwrap_or_default();
        if is_current || earlier.is_some() {
            self.settled.insert(lease, accepted);
        }
        self.acks.push((worker_id, lease, accepted));
    }

    /// Ends the attempt of a worker that is gone.
    pub(super) fn lost(&mut self, lease: Lease, worker_id: Uuid, outcome: &Outcome) {
        if self.end_attempt(lease, outcome, Some(worker_id), &Verdicts::default()) {
            self.settled.insert(lease, false);
            self.cancelled.push((lease, CancelReason::LeaseLost));
        }
    }

    /// Records an answer that came after its attempt had ended. Only for attempts that existed: a
    /// worker can make up any lease.
    pub(super) fn late(&mut self, lease: Lease, outcome: &Outcome, accepted: bool) {
        if !accepted && !self.changes.late.iter().any(|late| late.lease == lease) {
            self.changes.late.push(Late {
                lease,
                outcome: outcome.kind(),
            });
        }
    }
}
