//! The engine: its configuration, its loops, and its shutdown.

use std::{future::Future, sync::Arc, time::Duration};

use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use super::{
    auditor::{Auditor, Audits},
    backlog::Backlog,
    catalog::Catalog,
    dispatch::Dispatcher,
    events::{self, Events},
    gates::Gates,
    health::HealthCell,
    hub::Hub,
    intake::{Intake, IntakeQueue},
    judge::Judge,
    leases::{Heard, Leases},
    metrics::Metrics,
    peers::{Peers, PeersLoop},
    pulse::Pulses,
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

/// Longest retry of transient errors at a start, and the interval between tries.
const START_WAIT: Duration = Duration::from_secs(10);
const START_PAUSE: Duration = Duration::from_millis(250);

/// The configuration of an engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The address of this server; for operators.
    pub address: String,
    /// How long a worker may be silent before its steps are released.
    pub lease: Duration,
    /// The exporter of spans, if any.
    pub tracer: Option<Tracer>,
    /// How long finished tasks are kept; `None` for ever.
    pub retain: Option<Duration>,
    /// The part of `environments` that templates are registered with; empty for none.
    pub environment: String,
    /// The counters of this server.
    pub metrics: Arc<Metrics>,
    /// Encodes an event for subscribers.
    pub encode_event: events::Encode,
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
    pub judge: Judge,
    pub pulses: Pulses,
    pub backlog: Arc<Backlog>,
    loops: Loops,
}

/// The running loops, and the tokens that end them.
#[derive(Clone, Default)]
struct Loops {
    shutdown: CancellationToken,
    /// Cancelled when a loop has panicked.
    failed: CancellationToken,
    running: TaskTracker,
}

impl Loops {
    fn start<F: Future<Output = ()> + Send + 'static>(
        &self,
        name: &'static str,
        run: impl FnOnce(CancellationToken) -> F,
    ) {
        self.running.spawn(guarded(
            name,
            run(self.shutdown.clone()),
            self.failed.clone(),
        ));
    }
}

impl Engine {
    /// Reads the templates and starts the loops.
    #[expect(
        clippy::too_many_lines,
        reason = "every loop of the engine is started here, in the order of what needs what"
    )]
    pub async fn start(db: Db, config: EngineConfig) -> Result<Self, StoreError> {
        let server_id = Uuid::new_v4();
        let metrics = Arc::clone(&config.metrics);
        let catalog = Arc::new(Catalog::new(
            db.clone(),
            Arc::clone(&metrics),
            config.environment.clone(),
        ));
        let gates = Gates::new(server_id);
        first_look(&db, &catalog, &gates).await?;
        let retention = Retention {
            db: db.clone(),
            retain: config.retain,
        };
        // Before the first event of a new day: a day that begins without a partition never gets
        // one.
        if let Err(error) = retention.prepare().await {
            tracing::warn!(%error, "partitions of the event log cannot be created; events go to the default partition");
        }
        let (traces, telling) = Traces::new(config.tracer, db.clone(), Arc::clone(&metrics));
        let loops = Loops::default();
        let events = Events::new(
            db.clone(),
            config.encode_event,
            HealthCell::default(),
            loops.shutdown.clone(),
        );
        let shared = Shared::new(
            db.clone(),
            catalog,
            gates,
            Peers::new(server_id),
            events,
            metrics,
            traces,
        );
        shared.health.database(true);
        let (settler, settle) = Settler::new(shared.clone());
        let (intake_loop, intake) = Intake::new(shared.clone(), settle.clone());
        let (auditor, audits) = Auditor::new(shared.clone());
        let heard = Heard::default();
        let leases = Leases::new(
            server_id,
            &shared,
            settle.clone(),
            heard.clone(),
            config.lease,
        );
        let dispatcher = Dispatcher::new(shared.clone(), settle.clone());
        let talk = PeersLoop::new(&shared, config.address);
        let services = Services::new(&shared);
        loops.start("settle", |end| settler.run(end));
        loops.start("intake", |end| intake_loop.run(end));
        loops.start("dispatch", |end| dispatcher.run(end));
        loops.start("heartbeats", |end| leases.clone().run_heartbeats(end));
        loops.start("watch on the database", |end| {
            leases.clone().run_watch_on_database(end)
        });
        loops.start("reaper", |end| leases.clone().run_reaper(end));
        loops.start("stranded", |end| leases.clone().run_stranded(end));
        loops.start("tidy", |end| leases.clone().run_tidy(end));
        loops.start("deadlines", |end| leases.run_deadlines(end));
        loops.start("services", |end| services.run(end));
        loops.start("auditor", |end| auditor.run(end));
        if let Some(telling) = telling {
            loops.start("traces", |end| telling.run(end));
        }
        loops.start("peers", |end| talk.run(end));
        loops.start("pulses", |end| {
            shared
                .pulses
                .clone()
                .run(shared.health.clone(), shared.judge.clone(), end)
        });
        loops.start("events", |end| {
            shared.events.clone().run_reader(shared.pulses.clone(), end)
        });
        loops.start("retention", |end| retention.run(end));
        loops.start("marks", |end| shared.events.clone().run_marks(end));
        // No loop is added from here on, so `stop` can wait for all of them.
        loops.running.close();
        let Shared {
            catalog,
            hub,
            gates,
            watchers,
            events,
            health,
            peers,
            metrics,
            traces,
            judge,
            pulses,
            ..
        } = shared;
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
            judge,
            pulses,
            loops,
        })
    }

    /// Applies the lanes and services of a newly registered template.
    pub async fn templates_changed(&self) -> Result<(), StoreError> {
        self.hub.relane(&self.catalog.lanes());
        self.hub
            .steps_wait(self.gates.refresh(&self.db, &self.catalog).await?);
        Ok(())
    }

    /// Stops assignments, notifies the workers, and waits until they have answered or `grace` is
    /// over.
    pub async fn drain(&self, grace: Duration) {
        // NOT_SERVING first, so that clients and workers choose another server.
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
                "the drain timeout passed with steps in progress; their workers keep their leases and report to another server"
            );
        }
    }

    /// Resolves when a loop of the engine has panicked. The process should then exit, as the other
    /// loops cannot do its work.
    pub async fn failed(&self) {
        self.loops.failed.cancelled().await;
    }

    /// Resolves when the engine is asked to stop.
    pub async fn stopping(&self) {
        self.loops.shutdown.cancelled().await;
    }

    /// Stops the loops after they have stored the queued inputs; waits at most 5 s. May be called
    /// twice.
    pub async fn stop(&self) {
        self.loops.shutdown.cancel();
        let _ = tokio::time::timeout(Duration::from_secs(5), self.loops.running.wait()).await;
    }
}

/// Reads the templates and the services. Retries transient errors for `START_WAIT`, so a short
/// database outage does not abort the start.
async fn first_look(db: &Db, catalog: &Catalog, gates: &Gates) -> Result<(), StoreError> {
    let mut asked = tokio::time::Instant::now();
    let mut newest = catalog.newest();
    loop {
        let read = async {
            catalog.load().await?;
            catalog.take_new_lanes();
            gates.refresh(db, catalog).await
        };
        let read = read.await;
        // Pages that were read are kept, so progress restarts the wait.
        if std::mem::replace(&mut newest, catalog.newest()) != newest {
            asked = tokio::time::Instant::now();
        }
        match read {
            Err(error) if error.is_transient() && asked.elapsed() < START_WAIT => {
                tracing::debug!(%error, "the templates cannot be read; retrying");
                tokio::time::sleep(START_PAUSE).await;
            }
            read => return read.map(drop),
        }
    }
}

/// Runs a loop, and reports a panic in it.
async fn guarded(
    name: &'static str,
    run: impl Future<Output = ()> + Send + 'static,
    failed: CancellationToken,
) {
    if let Err(error) = tokio::spawn(run).await
        && error.is_panic()
    {
        tracing::error!(name, "a loop of the engine has panicked");
        failed.cancel();
    }
}
