//! Allocates free slots to steps: new steps and queued ones, in one order.
//!
//! Priority first, then the age of the task, so that work in progress ends before new work starts.
//! A step that became ready in this transaction has no precedence over older ones in the queue.

use std::{
    cmp::Reverse,
    time::{Duration, SystemTime},
};

use uuid::Uuid;

use super::{assignment, reservation::SlotReservation};
use crate::{
    domain::{event::EventType, lease::Lease},
    engine::{admission::reservation::CapacityReservation, hash::HashSet, plan::compiled::Plans},
    store::pipeline::{
        Candidate as QueuedStep, Changes, Claim, Claimed, Event, Grant, NewLive, WantedInputs,
    },
};

/// A step that could take a slot. At the same place in the order, a queued one comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Candidate {
    /// A waiting step, by its position among the queued ones.
    Queued(usize),
    /// A step that this transaction puts into play, by its position in `new_live`.
    New(usize),
}

/// The facts by which a candidate gets a slot.
#[derive(Clone, Copy)]
struct Facts {
    task_id: Uuid,
    step: i16,
    template_id: i32,
    lane_id: i32,
    bytes: i32,
    revision: i32,
    /// The time limit of the attempt, if it differs from the template's.
    timeout: Option<Duration>,
}

impl Candidate {
    fn facts(self, new: &[NewLive], queued: &[QueuedStep]) -> Facts {
        match self {
            Self::Queued(i) => Facts {
                task_id: queued[i].task_id,
                step: queued[i].step,
                template_id: queued[i].template_id,
                lane_id: queued[i].lane_id,
                bytes: queued[i].bytes,
                revision: queued[i].revision,
                timeout: None,
            },
            Self::New(i) => Facts {
                task_id: new[i].task_id,
                step: new[i].step,
                template_id: new[i].template_id,
                lane_id: new[i].lane_id,
                bytes: new[i].bytes,
                revision: new[i].revision,
                timeout: new[i].timeout,
            },
        }
    }
}

/// The claims of a transaction.
#[derive(Default)]
pub struct Allocation {
    /// The claims of new steps, which cannot be lost. Those of queued steps are returned by the
    /// commit.
    pub claimed: Vec<Claimed>,
    /// The documents that the handlers need.
    pub wanted: WantedInputs,
}

/// Allocates the reserved slots to steps of `changes.new_live` and `queued`, as far as their
/// services admit calls, and adds the claims to `changes`.
pub fn allocate(
    changes: &mut Changes,
    queued: &[QueuedStep],
    plans: &Plans,
    slots: &mut SlotReservation,
    capacity: &mut CapacityReservation,
    now: SystemTime,
) -> Allocation {
    let mut allocation = Allocation::default();
    if slots.is_empty() {
        return allocation;
    }
    for candidate in in_order(&changes.new_live, queued) {
        let facts = candidate.facts(&changes.new_live, queued);
        let Some(plan) = plans.get(&facts.template_id) else {
            continue;
        };
        let Some(template) = plan.step(facts.step) else {
            continue;
        };
        let timeout = facts.timeout.unwrap_or(template.timeout);
        let Some(grant) = grant(&facts, timeout, slots, capacity) else {
            continue;
        };
        let Facts {
            task_id,
            step,
            revision,
            ..
        } = facts;
        assignment::want(&mut allocation.wanted, plan, task_id, revision, step);
        match candidate {
            Candidate::New(i) => allocation.claimed.push(start(changes, i, grant, now)),
            Candidate::Queued(_) => changes.claims.push(Claim {
                task_id,
                step,
                grant,
                root: template.depends_on.is_empty(),
            }),
        }
    }
    // Before the commit, see `SlotReservation::announce`.
    slots.announce();
    changes.admissions = capacity.granted();
    deduplicate(&mut allocation.wanted);
    allocation
}

/// The candidates by priority, then by the age of their task.
fn in_order(new: &[NewLive], queued: &[QueuedStep]) -> impl Iterator<Item = Candidate> + use<> {
    let due = new.iter().enumerate().filter(|(_, live)| live.is_due());
    let new = due.map(|(i, live)| {
        let key = (Reverse(live.priority), live.task_id, live.step);
        (key, Candidate::New(i))
    });
    let queued = queued.iter().enumerate().map(|(i, step)| {
        let key = (Reverse(step.priority), step.task_id, step.step);
        (key, Candidate::Queued(i))
    });
    let mut order: Vec<_> = new.chain(queued).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, candidate)| candidate)
}

/// A slot and the capacity for one step, if both are there.
fn grant(
    facts: &Facts,
    timeout: Duration,
    slots: &mut SlotReservation,
    capacity: &mut CapacityReservation,
) -> Option<Grant> {
    let Facts { lane_id, bytes, .. } = *facts;
    let lease = Lease {
        task_id: facts.task_id,
        step: facts.step,
        nonce: nonce(),
    };
    // The slot is checked before the quota is taken: quota that was taken for a step without a slot
    // would be unused until the transaction ends.
    if !slots.has_slot(lane_id, bytes) {
        return None;
    }
    let share_id = capacity.take(lane_id, lease)?;
    Some(Grant {
        worker_id: slots.allocate(lane_id, bytes, lease)?,
        nonce: lease.nonce,
        timeout,
        share_id,
    })
}

/// Starts the `i`th new step with its first queue row.
fn start(changes: &mut Changes, i: usize, grant: Grant, now: SystemTime) -> Claimed {
    let live = &mut changes.new_live[i];
    live.grant = Some(grant);
    let ends_at = now + grant.timeout;
    let claimed = Claimed {
        task_id: live.task_id,
        step: live.step,
        template_id: live.template_id,
        lane_id: live.lane_id,
        attempt: live.next_attempt(),
        charged: live.past.map_or(0, |past| past.charged),
        nonce: grant.nonce,
        worker_id: grant.worker_id,
        deadline_at: live
            .expires_at
            .map_or(ends_at, |expires_at| expires_at.min(ends_at)),
    };
    changes.events.push(Event {
        step: Some(claimed.step),
        attempt: Some(claimed.attempt),
        worker_id: Some(grant.worker_id),
        lease: Some(grant.nonce),
        ..Event::of_task(EventType::StepStarted, claimed.template_id, claimed.task_id)
    });
    claimed
}

/// Keeps the newest revision that is wanted of each task, and each result once.
fn deduplicate(wanted: &mut WantedInputs) {
    wanted
        .tasks
        .sort_unstable_by_key(|(task_id, revision)| (*task_id, Reverse(*revision)));
    wanted.tasks.dedup_by_key(|(task_id, _)| *task_id);
    wanted.results.sort_unstable();
    wanted.results.dedup();
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
