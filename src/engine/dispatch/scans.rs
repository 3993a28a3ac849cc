//! When to scan the queue for waiting steps: as soon as a free slot and a step may coincide.

use uuid::Uuid;

use super::registry::Registry;
use crate::store::pipeline::LaneDemand;

impl Registry {
    /// Marks lanes active, as steps wait in them without a slot. Requests a scan if a slot is free
    /// by now; if not, the next freed slot does.
    pub fn mark_active(&self, lanes: impl IntoIterator<Item = i32>) {
        let mut all = self.lock();
        let mut wanted = false;
        for lane in lanes {
            // Slots and lanes share one lock, so a step and a slot that come at once cannot miss
            // each other.
            all.lanes.step_waits(lane);
            wanted = wanted || all.by_id.values().any(|c| c.free() > 0 && c.serves(lane));
        }
        drop(all);
        if wanted {
            self.request_scan();
        }
    }

    /// Marks all lanes active (another server enqueued steps, or a scan failed) and requests a
    /// scan.
    pub fn mark_all_active(&self) {
        self.lock().lanes.steps_may_wait_anywhere();
        self.request_scan();
    }

    /// Begins a scan of these lanes. A lane stays active if a step is enqueued during the scan, or
    /// if another worker takes larger assignments than the scan covers.
    pub fn scan_begins(&self, lanes: &[LaneDemand]) {
        let mut all = self.lock();
        let whole: Vec<i32> = lanes
            .iter()
            .filter(|lane| all.covers(lane))
            .map(|lane| lane.lane_id)
            .collect();
        all.lanes.scan_begins(whole);
    }

    /// Ends the scan: the lanes still marked as scanned become idle.
    pub fn scan_ends(&self) {
        self.lock().lanes.scan_ends();
    }

    /// A scan had no free slot to offer: marks all lanes active, so the next freed slot requests a
    /// scan.
    pub fn scan_had_no_slot(&self) {
        let mut all = self.lock();
        all.lanes.steps_may_wait_anywhere();
        if all
            .by_id
            .keys()
            .any(|worker_id| all.could_serve(*worker_id))
        {
            drop(all);
            self.request_scan();
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
            self.request_scan();
        }
    }

    /// Requests a scan of the queue.
    pub fn request_scan(&self) {
        self.scan_requests.notify_one();
    }

    /// Waits for a request by [`Registry::request_scan`].
    pub async fn scan_requested(&self) {
        self.scan_requests.notified().await;
    }
}
