//! Dispatch: fills free slots from the queue. A scan runs when a worker connects, when a slot is
//! freed and no step was assigned to it, when a retry is due, and on a notification of another
//! server.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    kind::{Batch, Decided, Read, Reading},
    policy::Inputs,
};
use crate::{
    engine::{
        context::EngineContext,
        dispatch::reservation::SlotReservation,
        hash::{HashMap, HashSet},
        observe::metrics::Loop,
        time::jitter,
    },
    store::{
        StoreError,
        pipeline::{Candidate, Changes, Claimed, LaneDemand, Pipeline},
    },
};

/// Interval between scans. Notifications are hints; this scan, with jitter, is the guarantee.
const POLL: Duration = Duration::from_secs(1);
/// Maximum steps claimed per transaction.
const MAX_CLAIMS: u16 = 500;

/// The batches of dispatch.
pub struct Dispatch {
    context: EngineContext,
    /// The last error that was logged.
    logged: Option<String>,
}

/// A scan of the queue.
pub struct Scan {
    /// The free slots by lane.
    demand: Vec<LaneDemand>,
}

/// The rows of a scan.
pub struct ScanRows {
    demand: Vec<LaneDemand>,
    /// The lanes that retries joined; a lane may occur several times.
    promoted: Vec<i32>,
}

impl Dispatch {
    pub fn new(context: EngineContext) -> Self {
        Self {
            context,
            logged: None,
        }
    }

    /// Begins a scan for the free slots, without lanes of closed services. None if no step could
    /// start.
    fn begin_scan(&self) -> Vec<Scan> {
        let registry = &self.context.registry;
        let mut demand = registry.demand();
        if demand.is_empty() {
            registry.scan_had_no_slot();
            return Vec::new();
        }
        for lane in &mut demand {
            lane.limit = lane.limit.min(i32::from(MAX_CLAIMS));
        }
        // Lanes of closed services count as scanned too: they become active again when their
        // service opens.
        registry.scan_begins(&demand);
        self.context.admission.admit(&mut demand, &[]);
        if demand.is_empty() {
            registry.scan_ends();
            return Vec::new();
        }
        vec![Scan { demand }]
    }

    /// Logs a permanent error once.
    fn log(&mut self, error: &StoreError) {
        if error.is_transient() || error.is_stale_admission() {
            return;
        }
        let text = error.to_string();
        if self.logged.as_ref() != Some(&text) {
            tracing::error!(%error, "dispatch keeps failing; retrying with back-off");
            self.logged = Some(text);
        }
    }
}

impl Batch for Dispatch {
    type Input = Scan;
    type Rows = ScanRows;
    type Replies = ();

    const LOOP: Loop = Loop::Dispatch;
    const INPUTS: Inputs = Inputs::Scanned;

    async fn gather(&mut self, shutdown: &CancellationToken) -> Option<Vec<Scan>> {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return None,
                () = self.context.registry.scan_requested() => {}
                () = self.context.retry_timer.fired() => {}
                () = tokio::time::sleep(jitter(POLL)) => {}
            }
            let scan = self.begin_scan();
            if !scan.is_empty() {
                return Some(scan);
            }
        }
    }

    /// None: slots are reserved only for the steps that are found, as the settle loop could not use
    /// the others meanwhile.
    fn wants(&self, _scan: &[Scan]) -> BTreeMap<i32, usize> {
        BTreeMap::new()
    }

    fn demand(&self, _slots: &SlotReservation, scan: &mut [Scan]) -> Vec<LaneDemand> {
        scan.iter_mut()
            .flat_map(|scan| std::mem::take(&mut scan.demand))
            .collect()
    }

    async fn read(
        &self,
        hot: &Pipeline,
        scan: &mut Vec<Scan>,
        demand: Vec<LaneDemand>,
    ) -> Result<Reading<ScanRows, Scan>, StoreError> {
        // A cheap check first: an idle server with idle workers comes here once a second, with one
        // statement and no transaction.
        let (anything, next_retry) = hot.anything_due(&demand).await?;
        if !anything {
            if let Some(after) = next_retry {
                self.context.retry_timer.fire_in(after);
            }
            self.context.registry.scan_ends();
            scan.clear();
            return Ok(Reading::Ended(Vec::new()));
        }
        let read = hot.begin_dispatch(&demand).await?;
        if let Some(after) = read.next_retry {
            self.context.retry_timer.fire_in(after);
        }
        let queued = read.candidates.iter().map(|c| c.template_id);
        Ok(Reading::Rows(Read {
            plans: self.context.templates.readable(queued).await?,
            candidates: read.candidates,
            now: read.now,
            is_cached: false,
            // Due retries were promoted.
            has_written: true,
            rows: ScanRows {
                demand,
                promoted: read.promoted,
            },
        }))
    }

    fn late_slots(&self, read: &Read<ScanRows>) -> Option<SlotReservation> {
        let wanted = per_lane(&read.candidates);
        Some(self.context.registry.reserve_for(&wanted))
    }

    fn decide(&self, _read: &Read<ScanRows>, _scan: &[Scan]) -> Decided<()> {
        Decided::of(Changes::default(), ())
    }

    fn size(_inputs: usize, _changes: &Changes, claimed: usize) -> usize {
        claimed
    }

    fn lanes_left(
        &self,
        read: &Read<ScanRows>,
        claimed: &[Claimed],
        is_used_up: bool,
    ) -> HashSet<i32> {
        lanes_left(read, claimed, is_used_up)
    }

    /// Ends the scan: its lanes become idle, unless steps are left in them. Scans again at once if
    /// the transaction claimed as many steps as it may.
    async fn reply(&mut self, _scan: Vec<Scan>, (): (), claimed: usize) -> Vec<Scan> {
        self.context.registry.scan_ends();
        let is_full = claimed >= usize::from(MAX_CLAIMS);
        if is_full {
            self.begin_scan()
        } else {
            Vec::new()
        }
    }

    fn succeeded(&mut self) {
        self.logged = None;
    }

    /// Scans anew, as slots and lanes may have changed meanwhile.
    fn renew(&mut self, _scan: Vec<Scan>, error: &StoreError) -> Vec<Scan> {
        self.log(error);
        self.context.registry.mark_all_active();
        self.begin_scan()
    }

    fn fail(&mut self, _scan: Vec<Scan>, _error: StoreError) -> Vec<Scan> {
        Vec::new()
    }
}

/// The lanes that still have steps: more candidates than were claimed, or as many as were asked for
/// and so perhaps more; and lanes that were not scanned although retries joined them.
fn lanes_left(read: &Read<ScanRows>, claimed: &[Claimed], is_used_up: bool) -> HashSet<i32> {
    let ScanRows { demand, promoted } = &read.rows;
    let mut left: HashMap<i32, i32> = HashMap::default();
    for candidate in &read.candidates {
        *left.entry(candidate.lane_id).or_default() += 1;
    }
    let met = |lane: &&LaneDemand| left.get(&lane.lane_id).is_some_and(|n| *n >= lane.limit);
    let mut lanes: HashSet<i32> = demand.iter().filter(met).map(|lane| lane.lane_id).collect();
    for claim in claimed {
        *left.entry(claim.lane_id).or_default() -= 1;
    }
    lanes.extend(
        left.into_iter()
            .filter(|(_, n)| *n > 0)
            .map(|(lane, _)| lane),
    );
    if claimed.is_empty() && !is_used_up {
        // Slots were free, yet nothing was claimed: no slot here takes these steps, and another
        // scan would not change that.
        lanes.clear();
    }
    let scanned: HashSet<i32> = demand.iter().map(|lane| lane.lane_id).collect();
    lanes.extend(promoted.iter().filter(|lane| !scanned.contains(lane)));
    lanes
}

/// The number of candidates per lane and size.
fn per_lane(candidates: &[Candidate]) -> BTreeMap<(i32, Reverse<i32>), usize> {
    let mut lanes = BTreeMap::new();
    for candidate in candidates {
        let key = (candidate.lane_id, Reverse(candidate.bytes));
        *lanes.entry(key).or_default() += 1;
    }
    lanes
}
