//! When to scan the queue for waiting steps: as soon as a free slot and a step may coincide.

use uuid::Uuid;

use super::Hub;
use crate::store::pipeline::LaneDemand;

impl Hub {
    /// Marks lanes active, as steps wait in them without a slot. Requests a scan if a slot is free
    /// by now; if not, the next freed slot does.
    pub fn steps_wait(&self, lanes: impl IntoIterator<Item = i32>) {
        let mut all = self.lock();
        let mut look = false;
        for lane in lanes {
            // Slots and lanes share one lock, so a step and a slot that come at once cannot miss
            // each other.
            all.is_loud(lane);
            look = look || all.by_id.values().any(|c| c.free() > 0 && c.serves(lane));
        }
        drop(all);
        if look {
            self.kick();
        }
    }

    /// Marks all lanes active (another server enqueued steps, or a scan failed) and requests a
    /// scan.
    pub fn anything_waits(&self) {
        self.lock().all_loud();
        self.kick();
    }

    /// Begins a scan of these lanes. A lane stays active if a step is enqueued during the scan, or
    /// if another worker takes larger assignments than the scan covers.
    pub fn look_begins(&self, lanes: &[LaneDemand]) {
        let mut all = self.lock();
        let differ = all.limits_differ;
        let larger = |lane: &LaneDemand| {
            all.by_id
                .values()
                .any(|c| c.profile.max_assignment_bytes > lane.bytes && c.serves(lane.lane_id))
        };
        let whole: Vec<i32> = lanes
            .iter()
            .filter(|lane| !(differ && larger(lane)))
            .map(|lane| lane.lane_id)
            .collect();
        all.looked_at.extend(whole);
    }

    /// Ends the scan: the lanes still marked as scanned become idle.
    pub fn look_ends(&self) {
        let mut all = self.lock();
        let lanes = std::mem::take(&mut all.looked_at);
        all.quiet.extend(lanes);
    }

    /// A scan had no free slot to offer: marks all lanes active, so the next freed slot requests a
    /// scan.
    pub fn look_missed(&self) {
        let mut all = self.lock();
        all.all_loud();
        if all
            .by_id
            .keys()
            .any(|worker_id| all.could_serve(*worker_id))
        {
            drop(all);
            self.kick();
        }
    }

    /// Requests a scan if a freed slot of these workers meets an active lane.
    pub fn slots_freed(&self, workers: impl IntoIterator<Item = Uuid>) {
        let all = self.lock();
        if workers
            .into_iter()
            .any(|worker_id| all.could_serve(worker_id))
        {
            drop(all);
            self.kick();
        }
    }

    /// Requests a scan of the queue.
    pub fn kick(&self) {
        self.kick.notify_one();
    }

    /// Waits for a request by [`Hub::kick`].
    pub async fn kicked(&self) {
        self.kick.notified().await;
    }
}
