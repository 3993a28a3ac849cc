//! The dispatch loop: fills free slots from the queue. It runs when a worker connects, when a slot
//! is freed and no step was assigned to it, when a retry is due, and on a notification of another
//! server.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use tokio_util::sync::CancellationToken;

use super::queue::SettleQueue;
use crate::{
    engine::{
        context::EngineContext,
        decide::input::Input,
        dispatch::{
            allocator::{Allocation, allocate, lost},
            assignment,
            reservation::deliver,
        },
        hash::{HashMap, HashSet},
        observe::metrics::Loop,
        time::jitter,
    },
    store::{
        StoreError,
        pipeline::{Candidate, Changes, Claimed, DispatchRead, LaneDemand, Pipeline},
    },
};

/// Interval between scans. Notifications are hints; this scan, with jitter, is the guarantee.
const POLL: Duration = Duration::from_secs(1);
/// First and longest back-off between failed tries; only an error that is not transient makes it
/// longer.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Maximum steps claimed per transaction.
const MAX_CLAIMS: i32 = 500;

/// The dispatch loop.
pub struct Dispatcher {
    context: EngineContext,
    settle: SettleQueue,
    hot: Option<Pipeline>,
}

impl Dispatcher {
    pub fn new(context: EngineContext, settle: SettleQueue) -> Self {
        Self {
            context,
            settle,
            hot: None,
        }
    }

    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut failing = Failing::default();
        let pulses = self.context.pulses.clone();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.context.registry.scan_requested() => {}
                () = self.context.retry_timer.fired() => {}
                () = tokio::time::sleep(jitter(POLL)) => {}
            }
            // Repeats while a transaction claims as many steps as it may.
            loop {
                match pulses.round("dispatch", self.run_once()).await {
                    Ok(claimed) if claimed >= usize::try_from(MAX_CLAIMS).unwrap_or(usize::MAX) => {
                    }
                    Ok(_) => {
                        failing = Failing::default();
                        break;
                    }
                    Err(error) => {
                        self.context.db.collisions().note(&error);
                        let pause = failing.pause(&error);
                        self.hot.take_if(|hot| hot.is_closed());
                        tokio::select! {
                            () = shutdown.cancelled() => return,
                            () = tokio::time::sleep(pause) => {}
                        }
                        self.context.registry.mark_all_active();
                        break;
                    }
                }
            }
        }
    }

    /// The free slots by lane, without lanes of closed services.
    fn demand(&self) -> Vec<LaneDemand> {
        let mut demand = self.context.registry.demand();
        if demand.is_empty() {
            self.context.registry.scan_had_no_slot();
            return demand;
        }
        for lane in &mut demand {
            lane.limit = lane.limit.min(MAX_CLAIMS);
        }
        // Lanes of closed services count as scanned too: they become active again when their
        // service opens.
        self.context.registry.scan_begins(&demand);
        self.context.admission.admit(&mut demand, &[]);
        if demand.is_empty() {
            self.context.registry.scan_ends();
        }
        demand
    }

    /// Claims steps for the free slots, in one transaction. Returns the number of claimed steps.
    #[expect(clippy::too_many_lines, reason = "one transaction in its order")]
    pub async fn run_once(&mut self) -> Result<usize, StoreError> {
        let demand = self.demand();
        if demand.is_empty() {
            return Ok(0);
        }
        let hot = match self.hot.take() {
            Some(hot) => hot,
            None => self.context.connect().await?,
        };
        // Cheap check first: an idle server with idle workers comes here once a second, with one
        // statement and no transaction.
        let result = async {
            let (anything, next_retry) = hot.anything_due(&demand).await?;
            if !anything {
                next_retry
                    .into_iter()
                    .for_each(|after| self.context.retry_timer.fire_in(after));
                return Ok(0);
            }
            // Before the transaction reads its clock, see `CapacityReservation::room`.
            let mut capacity = self.context.admission.reserve();
            let read = hot.begin_dispatch(&demand).await?;
            if let Some(after) = read.next_retry {
                self.context.retry_timer.fire_in(after);
            }
            // Reserved only now, and only for the candidates: the settle loop could not use these
            // slots.
            let mut reservation = self
                .context
                .registry
                .reserve_for(&per_lane(&read.candidates));
            let plans = self
                .context
                .templates
                .readable(read.candidates.iter().map(|c| c.template_id))
                .await?;
            let mut changes = Changes::default();
            let Allocation { mut wanted, .. } = allocate(
                &mut changes,
                &read.candidates,
                &plans,
                &mut reservation,
                &mut capacity,
                read.now,
            );
            let mut known = self.context.payloads.lookup(&mut wanted, &changes);
            changes.notify = self.context.membership.payload(false, false, false, false);
            // Also without a claim, since due retries were promoted.
            let mut applied = match hot.commit(&changes, &wanted, read.now).await {
                Ok(applied) => applied,
                Err(error) => {
                    // A commit of uncertain outcome may have made the claims that the reservation
                    // lists.
                    self.settle.commit_failed(&error, &reservation, capacity);
                    return Err(error);
                }
            };
            let batch = applied.claimed.len();
            self.context.committed(
                Loop::Dispatch,
                batch,
                applied.took,
                &changes,
                &plans,
                read.now,
            );
            // Before `deliver`: an answer must find its attempt counted against the quota.
            capacity.commit(true, &lost(&changes, &applied.claimed));
            self.context.events.written();
            self.context
                .payloads
                .update(&mut known, &mut applied, &changes);
            let claimed = applied.claimed;
            let count = claimed.len();
            // Before `scan_ends`: a lane with steps left becomes active, so the end of the scan
            // does not mark it idle.
            let left = lanes_left(&demand, &read, &claimed, reservation.is_used_up());
            self.context
                .registry
                .mark_active(self.context.admission.admitted(left));
            for (lease, worker_id) in deliver(
                assignment::assemble(claimed, &known, &plans, read.now),
                reservation,
            ) {
                let _ = self.settle.push(Input::undelivered(lease, worker_id)).await;
            }
            Ok(count)
        }
        .await;
        if result.is_err() && !hot.is_closed() && hot.rollback().await.is_err() {
            return result;
        }
        if result.as_ref().is_err_and(StoreError::is_stale_admission) {
            self.hot = Some(hot);
            self.context.registry.mark_all_active();
            return self.context.refresh_admission().await.map(|()| 0);
        }
        // Only a successful scan may mark lanes idle.
        if result.is_ok() {
            self.context.registry.scan_ends();
            self.context.health.database(true);
        }
        self.hot = Some(hot);
        result
    }
}

/// The failures since the last success.
#[derive(Default)]
struct Failing {
    /// The error that was logged last.
    said: Option<String>,
    times: u32,
}

impl Failing {
    /// Logs a new error once, and returns the back-off before the next try.
    fn pause(&mut self, error: &StoreError) -> Duration {
        if error.is_transient() {
            tracing::debug!(%error, "dispatch failed; retrying");
            return RETRY_PAUSE.0;
        }
        let words = error.to_string();
        if self.said.as_ref() != Some(&words) {
            tracing::error!(%error, "dispatch keeps failing; retrying with back-off");
            self.said = Some(words);
        }
        let pause = RETRY_PAUSE.0 * 2_u32.pow(self.times.min(10));
        self.times += 1;
        pause.min(RETRY_PAUSE.1)
    }
}

/// The lanes that still have steps: more candidates than were claimed, or as many as were asked for
/// and so perhaps more; and lanes that were not scanned although retries joined them.
fn lanes_left(
    demand: &[LaneDemand],
    read: &DispatchRead,
    claimed: &[Claimed],
    used_up: bool,
) -> HashSet<i32> {
    let mut left: HashMap<i32, i32> = HashMap::default();
    read.candidates
        .iter()
        .for_each(|c| *left.entry(c.lane_id).or_default() += 1);
    let met = |lane: &&LaneDemand| left.get(&lane.lane_id).is_some_and(|n| *n >= lane.limit);
    let mut lanes: HashSet<i32> = demand.iter().filter(met).map(|lane| lane.lane_id).collect();
    claimed
        .iter()
        .for_each(|c| *left.entry(c.lane_id).or_default() -= 1);
    lanes.extend(
        left.into_iter()
            .filter(|(_, n)| *n > 0)
            .map(|(lane, _)| lane),
    );
    if claimed.is_empty() && !used_up {
        // Slots were free, yet nothing was claimed: no slot here takes these steps, and another
        // scan would not change that.
        lanes.clear();
    }
    let looked_at: HashSet<i32> = demand.iter().map(|lane| lane.lane_id).collect();
    lanes.extend(
        read.promoted
            .iter()
            .filter(|lane| !looked_at.contains(lane)),
    );
    lanes
}

/// The number of candidates per lane and size.
fn per_lane(candidates: &[Candidate]) -> BTreeMap<(i32, Reverse<i32>), usize> {
    let mut lanes = BTreeMap::new();
    candidates
        .iter()
        .for_each(|c| *lanes.entry((c.lane_id, Reverse(c.bytes))).or_default() += 1);
    lanes
}
