//! The services loop: reports the outcomes of calls, advances circuits when their time has come,
//! and renews quota shares. Steps never wait for it: transactions rely on the admission state in
//! memory and state its version.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{
    catalog::Catalog, circuits, gates::Gates, hub::Hub, peers::Peers, pulse::Pulses, quotas,
    shared::Shared,
};
use crate::{
    domain::lease::Lease,
    store::{Db, StoreError, service, worker},
};

/// The name of the loop in `Pulses`.
const NAME: &str = "services";
/// Minimum interval between rounds, so that requests are batched.
const SPACING: Duration = Duration::from_millis(20);
/// Maximum delay of reports on healthy calls; a failure is reported at once.
const REPORT: Duration = Duration::from_secs(1);
/// Interval between renewals of a limit that is in use.
const RENEW: Duration = Duration::from_secs(1);
/// Maximum interval between rounds, which bounds the effect of a lost notification.
const LOOK: Duration = Duration::from_secs(5);

/// The services loop.
pub struct Services {
    pub db: Db,
    pub gates: Gates,
    pub hub: Arc<Hub>,
    pub catalog: Arc<Catalog>,
    pub peers: Arc<Peers>,
    pulses: Pulses,
    pub reported: Instant,
    pub looked: Instant,
}

impl Services {
    pub fn new(shared: &Shared) -> Self {
        let Shared {
            db,
            gates,
            hub,
            catalog,
            peers,
            pulses,
            ..
        } = shared.clone();
        let now = Instant::now();
        Self {
            db,
            gates,
            hub,
            catalog,
            peers,
            pulses,
            reported: now,
            looked: now,
        }
    }

    /// Runs until `shutdown`, then releases the quota shares.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut alarmed = false;
        let pulses = self.pulses.clone();
        loop {
            if let Err(error) = pulses.round(NAME, self.run_once(alarmed)).await {
                tracing::debug!(%error, "the services cannot be refreshed; retrying");
            }
            let wait = self.wait();
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = self.gates.alarmed() => alarmed = true,
                () = self.gates.worked() => alarmed = false,
                () = tokio::time::sleep(wait) => alarmed = false,
            }
            tokio::time::sleep(SPACING).await;
        }
        let _ = self.run_once(true).await;
        let _ = service::quota::leave(&self.db, self.peers.server_id).await;
    }

    fn wait(&self) -> Duration {
        let change = self
            .gates
            .next_change()
            .map(|at| at.saturating_duration_since(Instant::now()));
        let report = self
            .gates
            .has_calls()
            .then(|| REPORT.saturating_sub(self.reported.elapsed()));
        let renew = self.gates.is_limiting().then_some(RENEW);
        [change, report, renew]
            .into_iter()
            .flatten()
            .fold(LOOK, Duration::min)
    }

    /// Runs one round; without work it sends no query. With `alarmed`, counts are reported at once.
    pub async fn run_once(&mut self, alarmed: bool) -> Result<(), StoreError> {
        let mut stale = !self.gates.know(&self.catalog);
        // Reports come first, as they may move a circuit; so do states whose time is over. Both
        // change the rows, so the refresh follows.
        if alarmed || self.reported.elapsed() >= REPORT {
            stale |= self.report().await?;
        }
        if self.gates.take_lapsed() {
            circuits::advance(&self.db, &self.peers.service_news()).await?;
            stale = true;
        }
        if stale {
            self.refresh().await?;
        }
        // After the refresh, which may have extended a pause.
        self.hub.steps_wait(self.gates.resumed());
        // After the refresh, as each renewal names the admission version.
        self.renew().await?;
        if self.looked.elapsed() >= RENEW {
            self.looked = Instant::now();
            self.look().await?;
        }
        Ok(())
    }

    async fn report(&mut self) -> Result<bool, StoreError> {
        self.reported = Instant::now();
        let reports = self.gates.take_reports();
        if reports.is_empty() {
            return Ok(false);
        }
        let stored = circuits::report(&self.db, &reports, &self.peers.service_news()).await;
        stored.inspect_err(|_| self.gates.put_back(&reports))
    }

    async fn refresh(&self) -> Result<(), StoreError> {
        let opened = self.gates.refresh(&self.db, &self.catalog).await?;
        self.hub.steps_wait(opened);
        Ok(())
    }

    async fn renew(&self) -> Result<(), StoreError> {
        for ask in self.gates.renewals(|lanes| self.hub.slots_for(lanes)) {
            match quotas::renew(&self.db, self.peers.server_id, &ask).await? {
                Some(got) => self.hub.steps_wait(self.gates.renewed(&ask, got)),
                None => self.refresh().await?,
            }
            // Many renewals may take longer than `MAX_STALL`.
            self.pulses.beat(NAME);
        }
        Ok(())
    }

    /// Releases the quota of attempts that ended on another server, to which their worker moved.
    async fn look(&self) -> Result<(), StoreError> {
        let running: Vec<Lease> = self.gates.running();
        if !running.is_empty() {
            let dead: Vec<Lease> = worker::dead_leases(&self.db, &running)
                .await?
                .into_iter()
                .map(|(lease, _)| lease)
                .collect();
            self.hub.steps_wait(self.gates.ended(&dead));
        }
        Ok(())
    }
}
