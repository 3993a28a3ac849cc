//! How the copy of the services is brought up to date: what changed is read, and everything only rarely.

use std::{
    collections::HashMap,
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use super::{Gates, Known, copy::Gate};
use crate::{
    domain::policy::Settings,
    store::{
        Db, StoreError,
        gate::{self, Reading},
        pause::{self, PauseRow},
        service::{Scope, ServiceRow},
        template::LaneRow,
    },
};

/// Everything is read again after this, whatever was heard: should a change ever be missed, it is missed for no longer.
const READ_ALL: Duration = Duration::from_secs(600);

/// Up to where the services' rows were read.
#[derive(Default)]
pub(super) struct Seen {
    /// [`gate::ALL`] before the first reading.
    horizon: u64,
    /// When everything was read.
    all: Option<Instant>,
    /// What was set then for namespaces and the cell.
    wide: HashMap<Scope, Settings>,
}

impl Gates {
    /// Reads the services' rows that have changed. Returns the lanes whose services admit calls now and did not before.
    pub async fn refresh(&self, db: &Db, lanes: &[LaneRow]) -> Result<Vec<i32>, StoreError> {
        let mut seen = self.refreshing.lock().await;
        let (reading, all) = self.read(db, &mut seen).await?;
        // Afterwards: a pause gives its services another gate, so a server that has the current gate has read the pause.
        let pauses = pause::list(db).await?;
        let read = u64::try_from(reading.rows.len()).unwrap_or(u64::MAX);
        self.rows_read.fetch_add(read, Ordering::Relaxed);
        let opened = self.lock().learn(reading.rows, all, &pauses, lanes);
        seen.horizon = reading.horizon;
        self.work.notify_one();
        Ok(opened)
    }

    /// What has changed since the last reading, or everything; which of the two, it says.
    async fn read(&self, db: &Db, seen: &mut Seen) -> Result<(Reading, bool), StoreError> {
        let due = seen.all.is_none_or(|at| at.elapsed() >= READ_ALL);
        if self.anew.swap(false, Ordering::Relaxed) || due {
            seen.horizon = gate::ALL;
        }
        if seen.horizon != gate::ALL {
            // Parts of a limit change without their service.
            let also = self.lock().with_permits();
            let reading = gate::changed_since(db, self.server_id, seen.horizon, &also).await?;
            // Transactions count up. Where they do not, it is another database, and what is set for many concerns services that
            // have not changed themselves.
            if reading.horizon >= seen.horizon && reading.policies.wide() == seen.wide {
                return Ok((reading, false));
            }
            seen.horizon = gate::ALL;
        }
        let reading = gate::changed_since(db, self.server_id, gate::ALL, &[]).await?;
        seen.all = Some(Instant::now());
        seen.wide = reading.policies.wide();
        Ok((reading, true))
    }

    /// The next refresh reads everything: the database may be another one than before.
    pub fn doubt(&self) {
        self.anew.store(true, Ordering::Relaxed);
    }

    /// How many rows of services were read so far.
    pub fn rows_read(&self) -> u64 {
        self.rows_read.load(Ordering::Relaxed)
    }
}

impl Known {
    /// Takes over what a reading found; with `all`, what it did not find is gone. Returns the lanes whose services admit calls now.
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
            std::mem::take(&mut self.services)
        } else {
            crate::engine::hash::HashMap::default()
        };
        for row in rows {
            let id = row.service_id;
            let old = before.remove(&id).or_else(|| self.services.remove(&id));
            let was_shut = old
                .as_ref()
                .is_none_or(|gate| gate.is_shut(now) || gate.room(now, 0) == 0);
            let gate = Gate::of(row, now).renewed(old);
            if was_shut && !gate.is_shut(now) {
                opened.extend(&gate.lanes);
            }
            self.services.insert(id, gate);
        }
        opened.extend(self.hold(pauses, lanes));
        if all {
            self.forget_lanes(lanes);
        }
        // Those are new that have a larger id than all that are known.
        let known = lanes.partition_point(|lane| lane.lane_id <= self.newest_lane);
        for lane in lanes.get(known..).unwrap_or_default() {
            self.newest_lane = lane.lane_id;
            if self.lanes.insert(lane.lane_id, lane.service_id).is_none()
                && let Some(gate) = self.services.get_mut(&lane.service_id)
            {
                gate.lanes.push(lane.lane_id);
                opened.push(lane.lane_id);
            }
        }
        opened
    }

    /// Drops the lanes that are gone. `lanes` may have been taken before the newest ones came.
    fn forget_lanes(&mut self, lanes: &[LaneRow]) {
        let newest = lanes.last().map_or(0, |lane| lane.lane_id);
        let is_there =
            |id: i32| id > newest || lanes.binary_search_by_key(&id, |lane| lane.lane_id).is_ok();
        self.lanes.retain(|id, _| is_there(*id));
        for gate in self.services.values_mut() {
            gate.lanes.retain(|id| is_there(*id));
        }
    }

    /// Takes over which lanes are paused. Returns those that were and are not any more.
    fn hold(&mut self, pauses: &[PauseRow], lanes: &[LaneRow]) -> Vec<i32> {
        let covers = |pause: &PauseRow, lane: &LaneRow| {
            pause.namespace == lane.namespace
                && (pause.task_name.is_empty() || pause.task_name == lane.task_name)
        };
        let held = lanes
            .iter()
            .filter(|lane| pauses.iter().any(|pause| covers(pause, lane)))
            .map(|lane| lane.lane_id)
            .collect();
        let before = std::mem::replace(&mut self.paused, held);
        before.difference(&self.paused).copied().collect()
    }

    /// The services of whose limits this server has a part.
    pub(super) fn with_permits(&self) -> Vec<i32> {
        let having = self.services.iter().filter(|(_, g)| g.permit.is_some());
        having.map(|(id, _)| *id).collect()
    }
}
