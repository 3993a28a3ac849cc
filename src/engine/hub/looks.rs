//! When to look for steps that wait: a slot and a step may have come together.

use uuid::Uuid;

use super::Hub;
use crate::store::hot::LaneDemand;

impl Hub {
    /// Steps of these lanes came into play, or were left, without a slot: asks for a look if there is one by now. If not,
    /// the next slot that comes free does.
    pub fn steps_wait(&self, lanes: impl IntoIterator<Item = i32>) {
        let mut all = self.lock();
        let mut look = false;
        for lane in lanes {
            // Under one lock with the state of the slots, so that either side sees the other.
            all.is_loud(lane);
            look = look || all.by_id.values().any(|c| c.free() > 0 && c.serves(lane));
        }
        drop(all);
        if look {
            self.kick();
        }
    }

    /// Anything may wait, in any lane: somebody else put it there, or nobody could look.
    pub fn anything_waits(&self) {
        self.lock().all_loud();
        self.kick();
    }

    /// A look begins. What comes into a lane from now on keeps it loud, whatever the look finds; and so does a lane whose steps
    /// are not all looked for, as another worker takes larger ones.
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

    /// The look found nothing more in its lanes than it said.
    pub fn look_ends(&self) {
        let mut all = self.lock();
        let lanes = std::mem::take(&mut all.looked_at);
        all.quiet.extend(lanes);
    }

    /// Nobody could look, as no slot was free: the next one that comes free asks for it.
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

    /// Slots of these workers came free: asks for a look if steps may wait for one.
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

    /// Asks for a look at the waiting steps.
    pub fn kick(&self) {
        self.kick.notify_one();
    }

    /// Waits for [`Hub::kick`].
    pub async fn kicked(&self) {
        self.kick.notified().await;
    }
}
