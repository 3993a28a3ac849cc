//! What one transaction takes of the gates: it is nobody else's as long as it is not decided whether it was used.

use std::{collections::BTreeMap, time::Instant};

use super::{Gates, Limit, copy::Gate};
use crate::engine::hash::{HashMap, HashSet};
use crate::{
    domain::lease::Lease,
    store::changes::{Changes, PROBE, Passed, UsedPermit},
};

/// What was taken of one service.
#[derive(Default)]
struct Taken {
    /// The copy of the row that all of it relies on; none before the first claim.
    gate: Option<i64>,
    permit: Option<(i32, i64)>,
    limited: bool,
    probing: bool,
    leases: Vec<Lease>,
    tokens: f64,
    /// Those that this transaction ends, and that make room for others in it.
    freed: HashSet<Lease>,
}

impl Taken {
    /// Lets one more claim pass; `room` is how many could pass before the transaction read the clock.
    fn take(&mut self, gate: &mut Gate, room: i32, lease: Lease) -> Option<Option<i32>> {
        let freed = i32::try_from(self.freed.len()).unwrap_or(i32::MAX);
        let is_late = gate.limit == Limit::Concurrency
            && usize::try_from(room + freed).unwrap_or_default() <= self.leases.len();
        if is_late || gate.room(Instant::now(), freed) == 0 {
            gate.starved = true;
            return None;
        }
        if *self.gate.get_or_insert(gate.gate) != gate.gate {
            return None;
        }
        if gate.limit != Limit::None {
            let permit = gate.permit?;
            if *self.permit.get_or_insert((permit.permit_id, permit.term))
                != (permit.permit_id, permit.term)
            {
                return None;
            }
            (self.limited, self.probing) = (true, gate.limit == Limit::Probes);
            gate.promised += 1;
        }
        if gate.is_rated() {
            gate.tokens -= 1.0;
            self.tokens += 1.0;
        }
        self.leases.push(lease);
        Some(if self.probing {
            Some(PROBE)
        } else {
            self.permit.map(|(id, _)| id)
        })
    }

    /// After the commit: what it took is in use.
    fn commit(&self, gate: &mut Gate, ended: bool, lost: &HashSet<Lease>) {
        let count = i32::try_from(self.leases.len()).unwrap_or(i32::MAX);
        if self.limited {
            gate.promised -= count;
        }
        if self.probing {
            if let Some(permit) = gate
                .permit
                .as_mut()
                .filter(|permit| Some((permit.permit_id, permit.term)) == self.permit)
            {
                permit.count -= count;
            }
        } else if self.limited {
            gate.running
                .extend(self.leases.iter().filter(|lease| !lost.contains(lease)));
        }
        if ended {
            gate.running.retain(|lease| !self.freed.contains(lease));
        }
    }
}

/// The claims of a transaction, by the services that they pass to. What was not committed is given back when it is dropped.
pub struct Passes {
    gates: Gates,
    taken: BTreeMap<i32, Taken>,
    /// How many could pass to the services with a limit before the transaction read the clock. What ended since then ended
    /// after the time at which its claims start, and makes no room for them.
    room: HashMap<i32, i32>,
}

impl Passes {
    pub(super) fn new(gates: Gates) -> Self {
        let now = Instant::now();
        let known = gates.lock();
        let limited = known
            .active()
            .filter(|(_, gate)| gate.limit == Limit::Concurrency);
        let room = limited.map(|(id, gate)| (id, gate.room(now, 0))).collect();
        drop(known);
        Self {
            gates,
            taken: BTreeMap::new(),
            room,
        }
    }

    /// The transaction ends these attempts: where they count against a limit, others may start in their place.
    pub fn frees(&mut self, changes: &Changes) {
        let known = self.gates.lock();
        let limited: Vec<_> = known
            .active()
            .filter(|(_, gate)| !gate.running.is_empty())
            .collect();
        if limited.is_empty() {
            return;
        }
        for lease in ended(changes) {
            if let Some((id, _)) = limited
                .iter()
                .find(|(_, gate)| gate.running.contains(&lease))
            {
                self.taken.entry(*id).or_default().freed.insert(lease);
            }
        }
    }

    /// Lets a claim pass: the part of a limit that it uses, if there is one; nothing if it may not.
    pub fn take(&mut self, lane_id: i32, lease: Lease) -> Option<Option<i32>> {
        let mut known = self.gates.lock();
        if known.paused.contains(&lane_id) {
            return None;
        }
        let service_id = *known.lanes.get(&lane_id)?;
        let taken = self.taken.entry(service_id).or_default();
        let room = self.room.get(&service_id).copied().unwrap_or_default();
        known
            .change(service_id, |gate| taken.take(gate, room, lease))
            .flatten()
    }

    /// What the transaction takes for granted.
    pub fn granted(&self) -> Vec<Passed> {
        let passed = |(id, taken): (&i32, &Taken)| {
            let spent = if taken.probing {
                i32::try_from(taken.leases.len()).unwrap_or(i32::MAX)
            } else {
                0
            };
            let permit = taken.permit.map(|(permit_id, term)| UsedPermit {
                permit_id,
                term,
                spent,
            });
            Some(Passed {
                service_id: *id,
                gate: taken.gate?,
                permit,
            })
        };
        self.taken.iter().filter_map(passed).collect()
    }

    /// After the commit, or one of unknown outcome: all that may be in use counts as used. `lost` are claims that were not
    /// made. Returns the lanes in which others may pass now.
    pub fn commit(mut self, ended: bool, lost: &HashSet<Lease>) -> Vec<i32> {
        let now = Instant::now();
        let mut known = self.gates.lock();
        let mut lanes = Vec::new();
        for (id, taken) in std::mem::take(&mut self.taken) {
            known.change(id, |gate| {
                taken.commit(gate, ended, lost);
                if ended && !taken.freed.is_empty() && gate.room(now, 0) > 0 {
                    lanes.extend(&gate.lanes);
                }
            });
        }
        lanes
    }
}

impl Drop for Passes {
    fn drop(&mut self) {
        let mut known = self.gates.lock();
        for (id, taken) in &self.taken {
            known.change(*id, |gate| {
                gate.tokens += taken.tokens;
                if taken.limited {
                    gate.promised -= i32::try_from(taken.leases.len()).unwrap_or(i32::MAX);
                }
            });
        }
    }
}

/// The attempts that end.
fn ended(changes: &Changes) -> impl Iterator<Item = Lease> {
    let steps = changes.ended.iter().filter_map(|e| {
        Some(Lease {
            task_id: e.task_id,
            step: e.step,
            nonce: e.lease?,
        })
    });
    let retries = changes.retries.iter().map(|r| &r.attempt);
    let others = retries.chain(changes.given_back.iter().map(|g| &g.attempt));
    steps.chain(others.map(|a| Lease {
        task_id: a.task_id,
        step: a.step,
        nonce: a.lease,
    }))
}
