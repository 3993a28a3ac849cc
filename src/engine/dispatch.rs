//! Fills free slots from the steps that wait: when a worker connects, when a slot comes free and nothing was handed on,
//! when a retry falls due, and when another server says so.

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    assignment, claims,
    metrics::Loop,
    settle::{SettleQueue, deliver},
    shared::Shared,
};
use crate::engine::hash::{HashMap, HashSet};
use crate::store::{
    StoreError,
    changes::{Changes, Claimed},
    hot::{Candidate, DispatchRead, Hot, LaneDemand},
};

/// Notifications are hints; this look, with jitter, is the guarantee.
const POLL: Duration = Duration::from_secs(1);
/// Pauses between two tries that fail; a failure that does not pass by itself makes them longer.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// The most steps claimed by one transaction.
const MAX_CLAIMS: i32 = 500;

/// The dispatching loop.
pub struct Dispatcher {
    shared: Shared,
    settle: SettleQueue,
    hot: Option<Hot>,
}

impl Dispatcher {
    pub fn new(shared: Shared, settle: SettleQueue) -> Self {
        Self {
            shared,
            settle,
            hot: None,
        }
    }

    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut failing = Failing::default();
        let pulses = self.shared.pulses.clone();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.shared.hub.kicked() => {}
                () = self.shared.hub.retry_due() => {}
                () = tokio::time::sleep(super::peers::jitter(POLL)) => {}
            }
            // As long as there is more than one transaction's worth.
            loop {
                match pulses.round("dispatch", self.run_once()).await {
                    Ok(claimed) if claimed >= usize::try_from(MAX_CLAIMS).unwrap_or(usize::MAX) => {
                    }
                    Ok(_) => {
                        failing = Failing::default();
                        break;
                    }
                    Err(error) => {
                        self.shared.db.counts().note(&error);
                        let pause = failing.pause(&error);
                        self.hot.take_if(|hot| hot.is_closed());
                        tokio::select! {
                            () = shutdown.cancelled() => return,
                            () = tokio::time::sleep(pause) => {}
                        }
                        self.shared.hub.anything_waits();
                        break;
                    }
                }
            }
        }
    }

    /// The free slots by lane, without those of services that are shut.
    fn demand(&self) -> Vec<LaneDemand> {
        let mut demand = self.shared.hub.demand();
        if demand.is_empty() {
            self.shared.hub.look_missed();
            return demand;
        }
        for lane in &mut demand {
            lane.limit = lane.limit.min(MAX_CLAIMS);
        }
        // Also those that are shut: they are looked at when somebody may pass.
        self.shared.hub.look_begins(&demand);
        self.shared.gates.admit(&mut demand, &[]);
        if demand.is_empty() {
            self.shared.hub.look_ends();
        }
        demand
    }

    /// Claims what fits into the free slots, and returns how many steps that were.
    #[expect(clippy::too_many_lines, reason = "one transaction in its order")]
    pub async fn run_once(&mut self) -> Result<usize, StoreError> {
        let demand = self.demand();
        if demand.is_empty() {
            return Ok(0);
        }
        let hot = match self.hot.take() {
            Some(hot) => hot,
            None => self.shared.connect().await?,
        };
        // An idle server with idle workers comes here once a second: one statement, no transaction.
        let result = async {
            let (anything, next_retry) = hot.anything_due(&demand).await?;
            if !anything {
                next_retry
                    .into_iter()
                    .for_each(|after| self.shared.hub.retry_in(after));
                return Ok(0);
            }
            let mut passes = self.shared.gates.passes();
            let read = hot.begin_dispatch(&demand).await?;
            if let Some(after) = read.next_retry {
                self.shared.hub.retry_in(after);
            }
            // Only now, and only what there are steps for: what is reserved here, a settler could not hand on.
            let mut reservation = self.shared.hub.reserve_for(&per_lane(&read.candidates));
            let plans = self
                .shared
                .catalog
                .readable(read.candidates.iter().map(|c| c.template_id))
                .await?;
            let mut changes = Changes::default();
            let (_, mut wanted) = claims::grant(
                &mut changes,
                &read.candidates,
                &plans,
                &mut reservation,
                &mut passes,
                read.now,
            );
            let mut known = self.shared.documents.know(&mut wanted, &changes);
            changes.notify = self.shared.peers.news(false, false, false, false);
            // Also without a claim: due retries were promoted.
            let mut applied = match hot.commit(&changes, &wanted, read.now).await {
                Ok(applied) => applied,
                Err(error) => {
                    self.settle.uncommitted(&error, &reservation, passes);
                    return Err(error);
                }
            };
            let batch = applied.claimed.len();
            self.shared.committed(
                Loop::Dispatch,
                batch,
                applied.took,
                &changes,
                &plans,
                read.now,
            );
            passes.commit(true, &claims::lost(&changes, &applied.claimed));
            self.shared.events.written();
            self.shared
                .documents
                .keep(&mut known, &mut applied, &changes);
            let claimed = applied.claimed;
            let count = claimed.len();
            let left = lanes_left(&demand, &read, &claimed, reservation.is_used_up());
            self.shared.hub.steps_wait(self.shared.gates.open(left));
            for input in deliver(
                assignment::assemble(claimed, &known, &plans, read.now),
                reservation,
            ) {
                let _ = self.settle.push(input).await;
            }
            Ok(count)
        }
        .await;
        if result.is_err() && !hot.is_closed() && hot.rollback().await.is_err() {
            return result;
        }
        if result.as_ref().is_err_and(StoreError::is_gate) {
            self.hot = Some(hot);
            self.shared.hub.anything_waits();
            return self.shared.refresh_gates().await.map(|()| 0);
        }
        if result.is_ok() {
            self.shared.hub.look_ends();
            self.shared.health.database(true);
        }
        self.hot = Some(hot);
        result
    }
}

/// What dispatching has failed with since it last succeeded.
#[derive(Default)]
struct Failing {
    /// What does not pass by itself, and is in the log.
    said: Option<String>,
    times: u32,
}

impl Failing {
    /// Says so, once, and returns how long to wait before the next try.
    fn pause(&mut self, error: &StoreError) -> Duration {
        if error.is_transient() {
            tracing::debug!(%error, "dispatching failed, trying again");
            return RETRY_PAUSE.0;
        }
        let words = error.to_string();
        if self.said.as_ref() != Some(&words) {
            tracing::error!(%error, "waiting steps cannot be handed out; trying again, ever less often");
            self.said = Some(words);
        }
        let pause = RETRY_PAUSE.0 * 2_u32.pow(self.times.min(10));
        self.times += 1;
        pause.min(RETRY_PAUSE.1)
    }
}

/// The lanes in which steps are left: those that had more than could be claimed, or as many as were asked for and so
/// perhaps more; and those that nobody looked at although retries joined them.
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
        // Steps that nobody here can take, however often they are looked at.
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

/// How many candidates of each weight each lane has.
fn per_lane(candidates: &[Candidate]) -> BTreeMap<(i32, Reverse<i32>), usize> {
    let mut lanes = BTreeMap::new();
    candidates
        .iter()
        .for_each(|c| *lanes.entry((c.lane_id, Reverse(c.bytes))).or_default() += 1);
    lanes
}
