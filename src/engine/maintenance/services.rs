//! The services loop: reports the outcomes of calls, advances circuits when their time has come,
//! and renews quota shares. Steps never wait for it: transactions rely on the admission state in
//! memory and state its version.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::{
    domain::lease::Lease,
    engine::{
        admission::{circuits, control::Admission, quotas},
        cache::templates::TemplateCache,
        cluster::membership::Membership,
        context::EngineContext,
        dispatch::registry::Registry,
        observe::pulse::Pulses,
    },
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
const MAX_WAIT: Duration = Duration::from_secs(5);

/// The services loop.
pub struct ServicesLoop {
    pub db: Db,
    pub admission: Admission,
    pub registry: Arc<Registry>,
    pub templates: Arc<TemplateCache>,
    pub membership: Arc<Membership>,
    pulses: Pulses,
    pub reported: Instant,
    pub released: Instant,
}

impl ServicesLoop {
    pub fn new(context: &EngineContext) -> Self {
        let EngineContext {
            db,
            admission,
            registry,
            templates,
            membership,
            pulses,
            ..
        } = context.clone();
        let now = Instant::now();
        Self {
            db,
            admission,
            registry,
            templates,
            membership,
            pulses,
            reported: now,
            released: now,
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
                () = self.admission.alarmed() => alarmed = true,
                () = self.admission.has_work() => alarmed = false,
                () = tokio::time::sleep(wait) => alarmed = false,
            }
            tokio::time::sleep(SPACING).await;
        }
        let _ = self.run_once(true).await;
        let _ = service::quota::leave(&self.db, self.membership.server_id).await;
    }

    fn wait(&self) -> Duration {
        let change = self
            .admission
            .next_change()
            .map(|at| at.saturating_duration_since(Instant::now()));
        let report = self
            .admission
            .has_calls()
            .then(|| REPORT.saturating_sub(self.reported.elapsed()));
        let renew = self.admission.is_limiting().then_some(RENEW);
        [change, report, renew]
            .into_iter()
            .flatten()
            .fold(MAX_WAIT, Duration::min)
    }

    /// Runs one round; without work it sends no query. With `alarmed`, counts are reported at once.
    pub async fn run_once(&mut self, alarmed: bool) -> Result<(), StoreError> {
        let mut stale = !self.admission.knows_all_lanes(&self.templates);
        // Reports come first, as they may move a circuit; so do states whose time is over. Both
        // change the rows, so the refresh follows.
        if alarmed || self.reported.elapsed() >= REPORT {
            stale |= self.report().await?;
        }
        if self.admission.take_lapsed() {
            circuits::advance(&self.db, &self.membership.service_payload()).await?;
            stale = true;
        }
        if stale {
            self.refresh().await?;
        }
        // After the refresh, which may have extended a pause.
        self.registry.mark_active(self.admission.unthrottled());
        // After the refresh, as each renewal names the admission version.
        self.renew().await?;
        if self.released.elapsed() >= RENEW {
            self.released = Instant::now();
            self.release_ended().await?;
        }
        Ok(())
    }

    async fn report(&mut self) -> Result<bool, StoreError> {
        self.reported = Instant::now();
        let reports = self.admission.take_reports();
        if reports.is_empty() {
            return Ok(false);
        }
        let stored = circuits::report(&self.db, &reports, &self.membership.service_payload()).await;
        stored.inspect_err(|_| self.admission.put_back(&reports))
    }

    async fn refresh(&self) -> Result<(), StoreError> {
        let opened = self.admission.refresh(&self.db, &self.templates).await?;
        self.registry.mark_active(opened);
        Ok(())
    }

    async fn renew(&self) -> Result<(), StoreError> {
        for ask in self
            .admission
            .renewals(|lanes| self.registry.slots_for(lanes))
        {
            match quotas::renew(&self.db, self.membership.server_id, &ask).await? {
                Some(got) => self.registry.mark_active(self.admission.renewed(&ask, got)),
                None => self.refresh().await?,
            }
            // Many renewals may take longer than `MAX_STALL`.
            self.pulses.beat(NAME);
        }
        Ok(())
    }

    /// Releases the quota of attempts that ended on another server, to which their worker moved.
    async fn release_ended(&self) -> Result<(), StoreError> {
        let running: Vec<Lease> = self.admission.running();
        if !running.is_empty() {
            let dead: Vec<Lease> = worker::dead_leases(&self.db, &running)
                .await?
                .into_iter()
                .map(|(lease, _)| lease)
                .collect();
            self.registry.mark_active(self.admission.ended(&dead));
        }
        Ok(())
    }
}
