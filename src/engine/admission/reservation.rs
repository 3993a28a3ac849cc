//! Capacity reserved by one transaction. Released on drop unless committed.

use std::{collections::BTreeMap, time::Instant};

use super::{
    service::{Limit, ServiceState},
    services::SharedServices,
};
use crate::{
    domain::lease::Lease,
    engine::hash::{HashMap, HashSet},
    store::pipeline::{AdmissionCheck, Changes, PROBE, UsedShare},
};

/// The capacity reserved at one service.
#[derive(Default)]
struct Taken {
    /// The admission version that all claims rely on; none before the first claim.
    version: Option<i64>,
    share: Option<(i32, i64)>,
    limited: bool,
    probing: bool,
    leases: Vec<Lease>,
    tokens: f64,
    /// Attempts that this transaction ends, whose quota its own claims may use.
    freed: HashSet<Lease>,
}

impl Taken {
    /// Reserves capacity for one claim. `room` is the capacity before the transaction read the
    /// clock.
    fn take(&mut self, service: &mut ServiceState, room: i32, lease: Lease) -> Option<Option<i32>> {
        let freed = i32::try_from(self.freed.len()).unwrap_or(i32::MAX);
        let is_late = service.limit == Limit::Concurrency
            && usize::try_from(room + freed).unwrap_or_default() <= self.leases.len();
        if is_late || service.room(Instant::now(), freed) == 0 {
            service.starved = true;
            return None;
        }
        // All claims of a transaction on one service must rely on the same version.
        if *self.version.get_or_insert(service.version) != service.version {
            return None;
        }
        if service.limit != Limit::None {
            let share = service.share?;
            if *self.share.get_or_insert((share.share_id, share.term))
                != (share.share_id, share.term)
            {
                return None;
            }
            (self.limited, self.probing) = (true, service.limit == Limit::Probes);
            service.reserved += 1;
        }
        if service.is_rated() {
            service.tokens -= 1.0;
            self.tokens += 1.0;
        }
        self.leases.push(lease);
        Some(if self.probing {
            Some(PROBE)
        } else {
            self.share.map(|(id, _)| id)
        })
    }

    /// Converts the reservation into use, after the commit.
    fn commit(&self, service: &mut ServiceState, ended: bool, lost: &HashSet<Lease>) {
        let count = i32::try_from(self.leases.len()).unwrap_or(i32::MAX);
        if self.limited {
            service.reserved -= count;
        }
        if self.probing {
            if let Some(share) = service
                .share
                .as_mut()
                .filter(|share| Some((share.share_id, share.term)) == self.share)
            {
                share.count -= count;
            }
        } else if self.limited {
            service
                .running
                .extend(self.leases.iter().filter(|lease| !lost.contains(lease)));
        }
        if ended {
            service.running.retain(|lease| !self.freed.contains(lease));
        }
    }
}

/// The admission reservation of a transaction, by service. Released on drop unless committed.
pub struct CapacityReservation {
    services: SharedServices,
    taken: BTreeMap<i32, Taken>,
    /// The capacity of the services with a limit, before the transaction read the clock. An attempt
    /// that ended since then ended after its claims start, so its quota cannot be used for them.
    room: HashMap<i32, i32>,
}

impl CapacityReservation {
    pub(super) fn new(services: SharedServices) -> Self {
        let now = Instant::now();
        let known = services.lock();
        let limited = known
            .active()
            .filter(|(_, service)| service.limit == Limit::Concurrency);
        let room = limited
            .map(|(id, service)| (id, service.room(now, 0)))
            .collect();
        drop(known);
        Self {
            services,
            taken: BTreeMap::new(),
            room,
        }
    }

    /// Frees the quota of the attempts that this transaction ends, for its own claims.
    pub fn frees(&mut self, changes: &Changes) {
        if ended(changes).next().is_none() {
            return;
        }
        let known = self.services.lock();
        let limited: Vec<_> = known
            .active()
            .filter(|(_, service)| !service.running.is_empty())
            .collect();
        if limited.is_empty() {
            return;
        }
        for lease in ended(changes) {
            if let Some((id, _)) = limited
                .iter()
                .find(|(_, service)| service.running.contains(&lease))
            {
                self.taken.entry(*id).or_default().freed.insert(lease);
            }
        }
    }

    /// Reserves capacity for a claim. Returns the quota share it uses, if any; `None` if the
    /// service does not admit it.
    pub fn take(&mut self, lane_id: i32, lease: Lease) -> Option<Option<i32>> {
        let mut known = self.services.lock();
        if known.paused.contains(&lane_id) {
            return None;
        }
        let service_id = *known.lanes.get(&lane_id)?;
        let taken = self.taken.entry(service_id).or_default();
        let room = self.room.get(&service_id).copied().unwrap_or_default();
        known
            .change(service_id, |service| taken.take(service, room, lease))
            .flatten()
    }

    /// The versions and quota shares that the transaction relies on.
    pub fn granted(&self) -> Vec<AdmissionCheck> {
        let passed = |(id, taken): (&i32, &Taken)| {
            let spent = if taken.probing {
                i32::try_from(taken.leases.len()).unwrap_or(i32::MAX)
            } else {
                0
            };
            let share = taken.share.map(|(share_id, term)| UsedShare {
                share_id,
                term,
                spent,
            });
            Some(AdmissionCheck {
                service_id: *id,
                version: taken.version?,
                share,
            })
        };
        self.taken.iter().filter_map(passed).collect()
    }

    /// Counts the reservation as used, after a commit or one of uncertain outcome. `lost` are
    /// claims that were not made. Returns the lanes whose services admit calls now.
    pub fn commit(mut self, ended: bool, lost: &HashSet<Lease>) -> Vec<i32> {
        let now = Instant::now();
        let mut known = self.services.lock();
        let mut lanes = Vec::new();
        for (id, taken) in std::mem::take(&mut self.taken) {
            known.change(id, |service| {
                taken.commit(service, ended, lost);
                if ended && !taken.freed.is_empty() && service.room(now, 0) > 0 {
                    lanes.extend(&service.lanes);
                }
            });
        }
        lanes
    }
}

impl Drop for CapacityReservation {
    fn drop(&mut self) {
        let mut known = self.services.lock();
        for (id, taken) in &self.taken {
            known.change(*id, |service| {
                service.tokens += taken.tokens;
                if taken.limited {
                    service.reserved -= i32::try_from(taken.leases.len()).unwrap_or(i32::MAX);
                }
            });
        }
    }
}

/// The leases of the attempts that end.
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
