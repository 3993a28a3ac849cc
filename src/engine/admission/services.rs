//! The admission state of this server: the services, their lanes, and the list of active services.
//! A transaction or a round iterates over the active ones only, so its cost does not depend on the
//! number of services.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use super::service::ServiceState;
use crate::{
    engine::hash::{HashMap, HashSet},
    store::{pause::PauseRow, service::ServiceRow, template::LaneRow},
};

/// The admission state, shared by the loops. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct SharedServices(Arc<Mutex<Services>>);

impl SharedServices {
    pub(super) fn lock(&self) -> MutexGuard<'_, Services> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
pub(super) struct Services {
    services: HashMap<i32, ServiceState>,
    /// At least the services that are not at rest; each of them has `listed` set.
    active: Vec<i32>,
    /// The service of each lane.
    pub(super) lanes: HashMap<i32, i32>,
    /// The largest lane id ever known; a newer lane has a larger id.
    newest_lane: i32,
    /// The lanes of templates and namespaces that an operator has paused.
    pub(super) paused: HashSet<i32>,
    /// The pauses of the last reading.
    pauses: Vec<PauseRow>,
    /// The number of services iterated over.
    #[cfg(test)]
    pub(super) walked: std::cell::Cell<usize>,
}

impl Services {
    /// The state of a lane's service.
    pub(super) fn service_of(&self, lane_id: i32) -> Option<&ServiceState> {
        self.services.get(self.lanes.get(&lane_id)?)
    }

    /// Changes the state of a service and lists it if it is active then; `None` if it is unknown.
    pub(super) fn change<T>(
        &mut self,
        id: i32,
        change: impl FnOnce(&mut ServiceState) -> T,
    ) -> Option<T> {
        let service = self.services.get_mut(&id)?;
        let changed = change(service);
        if !service.listed && !service.is_at_rest() {
            service.listed = true;
            self.active.push(id);
        }
        Some(changed)
    }

    /// Changes the state of a lane's service.
    pub(super) fn change_of<T>(
        &mut self,
        lane_id: i32,
        change: impl FnOnce(&mut ServiceState) -> T,
    ) -> Option<T> {
        self.change(*self.lanes.get(&lane_id)?, change)
    }

    /// The active services, and possibly a few at rest.
    pub(super) fn active(&self) -> impl Iterator<Item = (i32, &ServiceState)> {
        #[cfg(test)]
        self.walked.set(self.walked.get() + self.active.len());
        let service = |id: &i32| Some((*id, self.services.get(id)?));
        self.active.iter().filter_map(service)
    }

    /// Changes the active services, and drops those that are at rest afterwards from the list.
    pub(super) fn each_active(&mut self, mut change: impl FnMut(i32, &mut ServiceState)) {
        #[cfg(test)]
        self.walked.set(self.walked.get() + self.active.len());
        let services = &mut self.services;
        self.active.retain(|id| {
            let Some(service) = services.get_mut(id) else {
                return false;
            };
            change(*id, service);
            service.listed = !service.is_at_rest();
            service.listed
        });
    }

    /// All services, for rare requests.
    pub(super) fn all(&self) -> impl Iterator<Item = &ServiceState> {
        self.services.values()
    }

    /// Whether all these lanes are known; they must be sorted by id.
    pub(super) fn has(&self, lanes: &[LaneRow]) -> bool {
        lanes
            .last()
            .is_none_or(|lane| lane.lane_id <= self.newest_lane)
    }

    /// The services of whose limits this server has a quota share.
    pub(super) fn with_shares(&self) -> Vec<i32> {
        let having = self.active().filter(|(_, service)| service.share.is_some());
        having.map(|(id, _)| id).collect()
    }

    /// Applies a reading; with `all`, services that it lacks are removed. Returns the lanes whose
    /// services admit calls now.
    pub(super) fn learn(
        &mut self,
        rows: Vec<ServiceRow>,
        all: bool,
        pauses: &[PauseRow],
        lanes: &[LaneRow],
    ) -> Vec<i32> {
        let now = Instant::now();
        let mut opened = Vec::new();
        let mut before = if all {
            mem::take(&mut self.services)
        } else {
            HashMap::default()
        };
        for row in rows {
            let id = row.service_id;
            let old = before.remove(&id).or_else(|| self.services.remove(&id));
            let was_shut = old
                .as_ref()
                .is_none_or(|service| service.is_shut(now) || service.room(now, 0) == 0);
            self.services
                .insert(id, ServiceState::of(row, now).renewed(old));
            // `change` also lists the service if it is active.
            let lanes = self.change(id, |service| {
                let opens = was_shut && !service.is_shut(now);
                opens.then(|| service.lanes.clone())
            });
            opened.extend(lanes.flatten().unwrap_or_default());
        }
        opened.extend(self.hold(pauses, lanes));
        if all {
            self.forget_lanes(lanes);
        }
        for lane in self.unknown(lanes) {
            self.newest_lane = lane.lane_id;
            if self.lanes.insert(lane.lane_id, lane.service_id).is_none()
                && let Some(service) = self.services.get_mut(&lane.service_id)
            {
                service.lanes.push(lane.lane_id);
                opened.push(lane.lane_id);
            }
        }
        opened
    }

    /// The lanes with a larger id than any known one; the lanes must be sorted by id.
    fn unknown<'a>(&self, lanes: &'a [LaneRow]) -> &'a [LaneRow] {
        let known = lanes.partition_point(|lane| lane.lane_id <= self.newest_lane);
        lanes.get(known..).unwrap_or_default()
    }

    /// Applies the pauses. Returns the lanes that were paused and are not any more.
    fn hold(&mut self, pauses: &[PauseRow], lanes: &[LaneRow]) -> Vec<i32> {
        let covers = |pause: &PauseRow, lane: &LaneRow| {
            pause.namespace == lane.namespace
                && (pause.task_name.is_empty() || pause.task_name == lane.task_name)
        };
        let is_held = |lane: &&LaneRow| pauses.iter().any(|pause| covers(pause, lane));
        // Lanes never change, so while the pauses are the same only new lanes are checked.
        if self.pauses == pauses {
            let held = self.unknown(lanes).iter().filter(is_held);
            let held: Vec<i32> = held.map(|lane| lane.lane_id).collect();
            self.paused.extend(held);
            return Vec::new();
        }
        self.pauses = pauses.to_vec();
        let held = lanes.iter().filter(is_held).map(|lane| lane.lane_id);
        let before = mem::replace(&mut self.paused, held.collect());
        before.difference(&self.paused).copied().collect()
    }

    /// Drops the lanes that were removed.
    fn forget_lanes(&mut self, lanes: &[LaneRow]) {
        let is_there = |id: &i32| lanes.binary_search_by_key(id, |lane| lane.lane_id).is_ok();
        self.lanes.retain(|id, _| is_there(id));
        self.paused.retain(is_there);
        for service in self.services.values_mut() {
            service.lanes.retain(is_there);
        }
    }
}
