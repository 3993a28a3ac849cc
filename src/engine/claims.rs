//! Allocates free slots to steps: new steps and queued ones, in one order.
//!
//! Priority first, then the age of the task, so that work in progress ends before new work starts.
//! A step that became ready in this transaction has no precedence over older ones in the queue.

use std::{cmp::Reverse, sync::Arc, time::SystemTime};

use uuid::Uuid;

use super::{assignment, catalog::Plan, gates::Passes, hub::Reservation};
use crate::engine::hash::{HashMap, HashSet};
use crate::{
    domain::{event::EventType, lease::Lease},
    store::pipeline::{Candidate, Changes, Claim, Claimed, Event, Grant, WantedInputs},
};

/// The plans of the templates that a transaction touches, by id.
pub type Plans = HashMap<i32, Arc<Plan>>;

/// Allocates the reserved slots to steps of `changes.new_live` and `candidates`, as far as their
/// services admit calls. Adds the claims to `changes`. Returns the claims of new steps, which
/// cannot be lost, and the documents that the handlers need. The claims of queued steps are
/// returned by the commit.
#[expect(
    clippy::too_many_lines,
    reason = "one choice of a step, a slot and a quota share; its parts are each useless alone"
)]
pub fn grant(
    changes: &mut Changes,
    candidates: &[Candidate],
    plans: &Plans,
    reservation: &mut Reservation,
    passes: &mut Passes,
    now: SystemTime,
) -> (Vec<Claimed>, WantedInputs) {
    let mut claimed = Vec::new();
    let mut inputs = WantedInputs::default();
    if reservation.is_empty() {
        return (claimed, inputs);
    }
    let due = changes
        .new_live
        .iter()
        .enumerate()
        .filter(|(_, live)| live.is_due());
    let new = due.map(|(i, l)| (Reverse(l.priority), l.task_id, l.step, Some(i), i));
    let old = candidates
        .iter()
        .enumerate()
        .map(|(i, c)| (Reverse(c.priority), c.task_id, c.step, None, i));
    let mut order: Vec<_> = new.chain(old).collect();
    order.sort_unstable();
    for (_, task_id, step, is_new, i) in order {
        let (template_id, lane_id, bytes, revision) = match is_new.map(|i| &changes.new_live[i]) {
            Some(live) => (live.template_id, live.lane_id, live.bytes, live.revision),
            None => (
                candidates[i].template_id,
                candidates[i].lane_id,
                candidates[i].bytes,
                candidates[i].revision,
            ),
        };
        let Some((plan, template)) = plans
            .get(&template_id)
            .and_then(|p| Some((p, p.step(step)?)))
        else {
            continue;
        };
        let lease = Lease {
            task_id,
            step,
            nonce: nonce(),
        };
        // The slot is checked before the quota is taken: quota that was taken for a step without a
        // slot would be unused until the transaction ends.
        if !reservation.has_slot(lane_id, bytes) {
            continue;
        }
        let Some(share_id) = passes.take(lane_id, lease) else {
            continue;
        };
        let Some(worker_id) = reservation.promise(lane_id, bytes, lease) else {
            continue;
        };
        let timeout = is_new
            .and_then(|i| changes.new_live[i].timeout)
            .unwrap_or(template.timeout);
        let grant = Grant {
            worker_id,
            nonce: lease.nonce,
            timeout,
            share_id,
        };
        assignment::want(&mut inputs, plan, task_id, revision, step);
        match is_new {
            Some(i) => {
                let live = &mut changes.new_live[i];
                live.grant = Some(grant);
                let (attempt, charged) = (
                    live.next_attempt(),
                    live.past.map_or(0, |past| past.charged),
                );
                let deadline_at = live
                    .expires_at
                    .map_or(now + timeout, |expires_at| expires_at.min(now + timeout));
                changes.events.push(Event {
                    step: Some(step),
                    attempt: Some(attempt),
                    worker_id: Some(worker_id),
                    lease: Some(grant.nonce),
                    ..Event::of_task(EventType::StepStarted, template_id, task_id)
                });
                claimed.push(Claimed {
                    task_id,
                    step,
                    template_id,
                    lane_id,
                    attempt,
                    charged,
                    nonce: grant.nonce,
                    worker_id,
                    deadline_at,
                });
            }
            None => {
                let root = template.depends_on.is_empty();
                changes.claims.push(Claim {
                    task_id,
                    step,
                    grant,
                    root,
                });
            }
        }
    }
    // Before the commit, see `Reservation::announce`.
    reservation.announce();
    changes.admissions = passes.granted();
    // The newest revision asked for per task.
    inputs
        .tasks
        .sort_unstable_by_key(|(task_id, revision)| (*task_id, Reverse(*revision)));
    inputs.tasks.dedup_by_key(|(task_id, _)| *task_id);
    inputs.results.sort_unstable();
    inputs.results.dedup();
    (claimed, inputs)
}

/// The claims of queued steps that were not made, as another transaction holds or has taken the
/// row.
pub fn lost(changes: &Changes, claimed: &[Claimed]) -> HashSet<Lease> {
    if changes.claims.len() == claimed.len() {
        return HashSet::default();
    }
    let made: HashSet<i64> = claimed.iter().map(|c| c.nonce).collect();
    let lease = |c: &Claim| Lease {
        task_id: c.task_id,
        step: c.step,
        nonce: c.grant.nonce,
    };
    changes
        .claims
        .iter()
        .filter(|c| !made.contains(&c.grant.nonce))
        .map(lease)
        .collect()
}

/// 64 bits, 62 of them random: not guessable, and unique for each attempt.
fn nonce() -> i64 {
    let (_, low) = Uuid::new_v4().as_u64_pair();
    low.cast_signed()
}
