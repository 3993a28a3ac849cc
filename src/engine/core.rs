//! The engine as a whole: what it needs, the loops it runs, and how it ends.

use std::{future::Future, sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{
    auditor::{Auditor, Audits},
    backlog::Backlog,
    catalog::Catalog,
    dispatch::Dispatcher,
    documents::Documents,
    events::Events,
    gates::Gates,
    health::HealthCell,
    held::Held,
    hub::Hub,
    intake::{Intake, IntakeQueue},
    leases::{Heard, Leases},
    metrics::Metrics,
    peers::{Peers, PeersLoop},
    retention::Retention,
    services::Services,
    settle::{SettleQueue, Settler},
    shared::Shared,
    traces::Traces,
    watch::Watchers,
};
use crate::{
    store::{Db, StoreError},
    telemetry::Tracer,
};

/// How long a database that breaks off while the engine starts is waited for, and how often it is asked.
const START_WAIT: Duration = Duration::from_secs(10);
const START_PAUSE: Duration = Duration::from_millis(250);

/// How the engine is set up.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Where this server can be reached; for operators.
    pub address: String,
    /// How long a worker may be silent before its steps go to others.
    pub lease: Duration,
    /// Where spans go, if anywhere.
    pub tracer: Option<Tracer>,
    /// How long finished tasks are kept; `None` for ever.
    pub retain: Option<Duration>,
}

/// A running engine. Cheap to clone; every surface holds one.
#[derive(Clone)]
pub struct Engine {
    pub server_id: Uuid,
    pub db: Db,
    pub catalog: Arc<Catalog>,
    pub hub: Arc<Hub>,
    pub gates: Gates,
    pub watchers: Watchers,
    pub events: Events,
    pub health: HealthCell,
    pub intake: IntakeQueue,
    pub settle: SettleQueue,
    pub heard: Heard,
    pub peers: Arc<Peers>,
    pub audits: Arc<Audits>,
    pub lease: Duration,
    pub metrics: Arc<Metrics>,
    pub traces: Traces,
    pub backlog: Arc<Backlog>,
    shutdown: CancellationToken,
    /// A loop ended that should not have.
    failed: CancellationToken,
    loops: TaskTracker,
}

impl Engine {
    /// Reads the templates and starts the loops.
    #[expect(clippy::too_many_lines, reason = "one list: everything that runs, in the order in which it is made")]
    pub async fn start(db: Db, config: EngineConfig) -> Result<Self, StoreError> {
        let server_id = Uuid::new_v4();
        let (hub, watchers, health) = (Arc::<Hub>::default(), Watchers::default(), HealthCell::default());
        let metrics = Arc::<Metrics>::default();
        let catalog = Arc::new(Catalog::new(db.clone(), Arc::clone(&metrics)));
        let gates = Gates::new(server_id);
        first_look(&db, &catalog, &gates).await?;
        health.database(true);
        let retention = Retention { db: db.clone(), retain: config.retain };
        // Before the first event of a new day: a day that has begun without a partition stays without.
        if let Err(error) = retention.prepare().await {
            tracing::warn!(%error, "no partitions of the event log could be made; what finds none is stored all the same");
        }
        let peers = Arc::new(Peers::new(server_id));
        let (traces, telling) = Traces::new(config.tracer, db.clone(), Arc::clone(&metrics));
        let (shutdown, failed, loops) = (CancellationToken::new(), CancellationToken::new(), TaskTracker::new());
        let events = Events::new(db.clone(), shutdown.clone());
        let shared = Shared {
            db: db.clone(),
            catalog: Arc::clone(&catalog),
            hub: Arc::clone(&hub),
            gates: gates.clone(),
            documents: Documents::default(),
            held: Held::default(),
            watchers: watchers.clone(),
            events: events.clone(),
            peers: Arc::clone(&peers),
            health: health.clone(),
            metrics: Arc::clone(&metrics),
            traces: traces.clone(),
        };
        let (settler, settle) = Settler::new(shared.clone());
        let (intake_loop, intake) = Intake::new(shared.clone(), settle.clone());
        let (auditor, audits) = Auditor::new(shared.clone());
        let heard = Heard::default();
        let leases = Leases::new(server_id, &shared, settle.clone(), heard.clone(), config.lease);
        let dispatcher = Dispatcher::new(shared, settle.clone());
        let talk = PeersLoop {
            db: db.clone(),
            peers: Arc::clone(&peers),
            catalog: Arc::clone(&catalog),
            hub: Arc::clone(&hub),
            gates: gates.clone(),
            watchers: watchers.clone(),
            events: events.clone(),
            address: config.address,
        };
        let services =
            Services::new(db.clone(), gates.clone(), Arc::clone(&hub), Arc::clone(&catalog), Arc::clone(&peers));
        loops.spawn(guarded("settle", settler.run(shutdown.clone()), failed.clone()));
        loops.spawn(guarded("intake", intake_loop.run(shutdown.clone()), failed.clone()));
        loops.spawn(guarded("dispatch", dispatcher.run(shutdown.clone()), failed.clone()));
        loops.spawn(guarded("heartbeats", leases.clone().run_heartbeats(shutdown.clone()), failed.clone()));
        loops.spawn(guarded("reaper", leases.clone().run_reaper(shutdown.clone()), failed.clone()));
        loops.spawn(guarded("tidy", leases.clone().run_tidy(shutdown.clone()), failed.clone()));
        loops.spawn(guarded("deadlines", leases.run_deadlines(shutdown.clone()), failed.clone()));
        loops.spawn(guarded("services", services.run(shutdown.clone()), failed.clone()));
        loops.spawn(guarded("auditor", auditor.run(shutdown.clone()), failed.clone()));
        if let Some(telling) = telling {
            loops.spawn(guarded("traces", telling.run(shutdown.clone()), failed.clone()));
        }
        loops.spawn(guarded("peers", talk.run(shutdown.clone()), failed.clone()));
        loops.spawn(guarded("events", events.clone().run_reader(shutdown.clone()), failed.clone()));
        loops.spawn(guarded("retention", retention.run(shutdown.clone()), failed.clone()));
        loops.spawn(guarded("marks", events.clone().run_marks(shutdown.clone()), failed.clone()));
        loops.close();
        Ok(Self {
            backlog: Arc::new(Backlog::new(db.clone(), Arc::clone(&catalog))),
            server_id,
            db,
            catalog,
            hub,
            gates,
            watchers,
            events,
            health,
            intake,
            settle,
            heard,
            peers,
            audits,
            lease: config.lease,
            metrics,
            traces,
            shutdown,
            failed,
            loops,
        })
    }

    /// Sees what came with a new template: lanes, and services.
    pub async fn templates_changed(&self) -> Result<(), StoreError> {
        let lanes = self.catalog.lanes();
        self.hub.relane(&lanes);
        self.hub.steps_wait(self.gates.refresh(&self.db, &lanes).await?);
        Ok(())
    }

    /// Stops handing out steps, tells the workers, and waits until they answered or `grace` is over.
    pub async fn drain(&self, grace: Duration) {
        self.health.drain();
        self.hub.drain(grace);
        let answered = async {
            while self.hub.in_flight() > 0 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        if tokio::time::timeout(grace, answered).await.is_err() {
            tracing::warn!(
                steps = self.hub.in_flight(),
                "the grace period is over with steps still running; their workers go on and will answer another server"
            );
        }
    }

    /// Resolves when a loop of the engine has panicked. The others are of little use then, and the process should make
    /// room for a new one.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Resolves when the engine is told to end.
    pub async fn stopping(&self) {
        self.shutdown.cancelled().await;
    }

    /// Ends the loops after what is queued is stored. Safe to call twice.
    pub async fn stop(&self) {
        self.shutdown.cancel();
        let _ = tokio::time::timeout(Duration::from_secs(5), self.loops.wait()).await;
    }
}

/// Reads the templates. Whoever starts a server has found its database; one that breaks off in that moment comes back, and
/// a server that ended for it would have to be started by somebody.
async fn first_look(db: &Db, catalog: &Catalog, gates: &Gates) -> Result<(), StoreError> {
    let started = tokio::time::Instant::now();
    loop {
        let read = async {
            catalog.refresh().await?;
            gates.refresh(db, &catalog.lanes()).await
        };
        match read.await {
            Err(error) if error.is_transient() && started.elapsed() < START_WAIT => {
                tracing::debug!(%error, "the templates could not be read, trying again");
                tokio::time::sleep(START_PAUSE).await;
            }
            read => return read.map(drop),
        }
    }
}

/// Runs a loop; one that panics is not missed in silence.
async fn guarded(name: &'static str, run: impl Future<Output = ()> + Send + 'static, failed: CancellationToken) {
    if let Err(error) = tokio::spawn(run).await
        && error.is_panic()
    {
        tracing::error!(name, "a loop of the engine has panicked");
        failed.cancel();
    }
}
