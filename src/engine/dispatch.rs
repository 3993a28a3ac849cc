//! Fills free slots from the steps that wait: when a worker connects, when a slot comes free and nothing was handed on,
//! when a retry falls due, and when another server says so.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    assignment,
    catalog::Catalog,
    claims::{self, Plans},
    health::HealthCell,
    hub::{Hub, Want},
    peers::Peers,
    settle::{SettleQueue, deliver},
};
use crate::store::{
    Db, StoreError,
    changes::Changes,
    hot::{Candidate, Hot, LaneDemand},
};

/// Notifications are hints; this look, with jitter, is the guarantee.
const POLL: Duration = Duration::from_secs(1);
/// The most steps claimed by one transaction.
const MAX_CLAIMS: i32 = 500;

/// The dispatching loop.
pub struct Dispatcher {
    pub db: Db,
    pub catalog: Arc<Catalog>,
    pub hub: Arc<Hub>,
    pub peers: Arc<Peers>,
    pub health: HealthCell,
    pub settle: SettleQueue,
    hot: Option<Hot>,
}

impl Dispatcher {
    pub fn new(
        db: Db,
        catalog: Arc<Catalog>,
        hub: Arc<Hub>,
        peers: Arc<Peers>,
        health: HealthCell,
        settle: SettleQueue,
    ) -> Self {
        Self { db, catalog, hub, peers, health, settle, hot: None }
    }

    /// Runs until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.hub.kicked() => {}
                () = self.hub.retry_due() => {}
                () = tokio::time::sleep(super::peers::jitter(POLL)) => {}
            }
            // As long as there is more than one transaction's worth.
            loop {
                match self.run_once().await {
                    Ok(claimed) if claimed >= usize::try_from(MAX_CLAIMS).unwrap_or(usize::MAX) => {}
                    Ok(_) => break,
                    Err(error) => {
                        tracing::debug!(%error, "dispatching failed, trying again");
                        if self.hot.as_ref().is_none_or(Hot::is_closed) {
                            self.hot = None;
                            self.health.database(false);
                        }
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        self.hub.kick();
                        break;
                    }
                }
            }
        }
    }

    /// Claims what fits into the free slots, and returns how many steps that were.
    pub async fn run_once(&mut self) -> Result<usize, StoreError> {
        let mut reservation = self.hub.reserve(&Want::All);
        let mut demand = reservation.demand();
        if demand.is_empty() {
            return Ok(0);
        }
        for lane in &mut demand {
            lane.limit = lane.limit.min(MAX_CLAIMS);
        }
        let hot = match self.hot.take() {
            Some(hot) => hot,
            None => Hot::connect(&self.db).await?,
        };
        // An idle server with idle workers comes here once a second: one statement, no transaction.
        let result = async {
            let (anything, next_retry) = hot.anything_due(&demand).await?;
            if !anything {
                self.hub.set_backlog(false);
                next_retry.into_iter().for_each(|after| self.hub.retry_in(after));
                return Ok(0);
            }
            let read = hot.begin_dispatch(&demand).await?;
            if let Some(after) = read.next_retry {
                self.hub.retry_in(after);
            }
            let mut plans = Plans::new();
            for id in read.candidates.iter().map(|c| c.template_id).collect::<HashSet<_>>() {
                plans.insert(id, self.catalog.plan(id).await?);
            }
            let mut changes = Changes::default();
            let (_, wanted) = claims::grant(&mut changes, &read.candidates, &plans, &mut reservation, read.now);
            // What is left waits for the next slot; a result that frees one asks for this look.
            self.hub.set_backlog(reservation.is_used_up() || demand_is_met(&demand, &read.candidates));
            // Also without a claim: due retries were promoted.
            let mut applied = hot.commit(&changes, &wanted, read.now).await?;
            let claimed = std::mem::take(&mut applied.claimed);
            let count = claimed.len();
            for input in deliver(assignment::assemble(claimed, &applied, &plans, read.now), reservation) {
                let _ = self.settle.push(input).await;
            }
            Ok(count)
        }
        .await;
        if result.is_err() && !hot.is_closed() && hot.rollback().await.is_err() {
            return result;
        }
        if result.is_ok() {
            self.health.database(true);
        }
        self.hot = Some(hot);
        result
    }
}

/// Whether a lane gave as many steps as were asked for, and so may have more.
fn demand_is_met(demand: &[LaneDemand], candidates: &[Candidate]) -> bool {
    let found = |lane: &LaneDemand| candidates.iter().filter(|c| c.lane_id == lane.lane_id).count();
    demand.iter().any(|lane| found(lane) >= usize::try_from(lane.limit).unwrap_or(usize::MAX))
}
