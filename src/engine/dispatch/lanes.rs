//! The states of the lanes: whether steps may wait in them for a worker of this server.

use crate::engine::hash::HashMap;

/// The state of a lane, as far as this server knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LaneState {
    /// Steps may wait in it, so a freed slot requests a scan.
    #[default]
    Active,
    /// It is being scanned. It becomes idle only if no step is enqueued during the scan.
    Scanning,
    /// No step waits in it, so a freed slot needs no scan.
    Idle,
}

/// What happens to a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LaneEvent {
    /// A step is enqueued in it, or is left in it by a scan.
    StepWaits,
    ScanBegins,
    ScanEnds,
}

impl LaneState {
    pub fn after(self, event: LaneEvent) -> Self {
        match (self, event) {
            (_, LaneEvent::StepWaits) => Self::Active,
            (Self::Active | Self::Scanning, LaneEvent::ScanBegins) => Self::Scanning,
            (Self::Scanning | Self::Idle, LaneEvent::ScanEnds)
            // No reason to look for steps in an idle lane while it is scanned again.
            | (Self::Idle, LaneEvent::ScanBegins) => Self::Idle,
            (Self::Active, LaneEvent::ScanEnds) => Self::Active,
        }
    }
}

/// The states of all lanes.
#[derive(Default)]
pub struct Lanes {
    /// Without the active ones.
    states: HashMap<i32, LaneState>,
    /// The lanes of the scan under way.
    scanned: Vec<i32>,
}

impl Lanes {
    pub fn state(&self, lane_id: i32) -> LaneState {
        self.states.get(&lane_id).copied().unwrap_or_default()
    }

    fn apply(&mut self, lane_id: i32, event: LaneEvent) {
        match self.state(lane_id).after(event) {
            LaneState::Active => drop(self.states.remove(&lane_id)),
            state => drop(self.states.insert(lane_id, state)),
        }
    }

    /// A step waits in the lane.
    pub fn step_waits(&mut self, lane_id: i32) {
        self.apply(lane_id, LaneEvent::StepWaits);
    }

    /// Steps may wait in every lane.
    pub fn steps_may_wait_anywhere(&mut self) {
        self.states.clear();
        self.scanned.clear();
    }

    pub fn scan_begins(&mut self, lanes: impl IntoIterator<Item = i32>) {
        for lane_id in lanes {
            self.apply(lane_id, LaneEvent::ScanBegins);
            self.scanned.push(lane_id);
        }
    }

    /// The scan under way has ended.
    pub fn scan_ends(&mut self) {
        for lane_id in std::mem::take(&mut self.scanned) {
            self.apply(lane_id, LaneEvent::ScanEnds);
        }
    }

    /// Drops the lanes that were removed.
    pub fn retain(&mut self, is_there: impl Fn(i32) -> bool) {
        self.states.retain(|lane_id, _| is_there(*lane_id));
        self.scanned.retain(|lane_id| is_there(*lane_id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lane_state_follows_its_transition_table() {
        use LaneEvent::{ScanBegins, ScanEnds, StepWaits};
        use LaneState::{Active, Idle, Scanning};
        let table = [
            (Active, StepWaits, Active),
            (Active, ScanBegins, Scanning),
            (Active, ScanEnds, Active),
            (Scanning, StepWaits, Active),
            (Scanning, ScanBegins, Scanning),
            (Scanning, ScanEnds, Idle),
            (Idle, StepWaits, Active),
            (Idle, ScanBegins, Idle),
            (Idle, ScanEnds, Idle),
        ];
        for (before, event, after) in table {
            assert_eq!(before.after(event), after, "{before:?} after {event:?}");
        }
    }

    #[test]
    fn scanned_lane_is_idle_unless_a_step_was_enqueued_meanwhile() {
        let mut lanes = Lanes::default();
        lanes.scan_begins([1, 2, 3]);
        lanes.step_waits(2);
        lanes.retain(|lane_id| lane_id != 3);
        lanes.scan_ends();
        let states = [1, 2, 3].map(|lane_id| lanes.state(lane_id));
        assert_eq!(
            states,
            [LaneState::Idle, LaneState::Active, LaneState::Active]
        );
        lanes.steps_may_wait_anywhere();
        assert_eq!(lanes.state(1), LaneState::Active);
    }

    #[test]
    fn end_of_a_scan_leaves_lanes_of_a_failed_scan_active() {
        let mut lanes = Lanes::default();
        lanes.scan_begins([1]);
        lanes.steps_may_wait_anywhere();
        lanes.scan_ends();
        assert_eq!(lanes.state(1), LaneState::Active);
    }
}
