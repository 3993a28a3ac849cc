//! The engine: loops that read under lock, decide with `domain`, and write in one transaction.
//!
//! ```text
//! intake    submits            ─▶ tasks, steps, root steps in play ─┐
//! settle    results, time-outs,                                     ├─▶ registry ─▶ worker streams
//!           losses, commands   ─▶ next steps in play                │
//! dispatch  free slots         ─▶ claims of waiting steps          ─┘
//! leases    heartbeats ─▶ workers' leases; lapsed leases, passed deadlines ─▶ settle
//! services  health of calls ─▶ circuits; quota shares ─▶ admission
//! auditor   stuck steps and tasks ─▶ repaired
//! retention tasks and events beyond the retention time ─▶ removed
//! cluster   other servers' notifications ─▶ dispatch, templates, admission, watchers, events
//! events    the log ─▶ subscribers
//! traces    committed changes ─▶ a collector's spans, the log
//! ```
//!
//! Imports between the folders run one way, from the top of this list to its end: `operations` and
//! `maintenance`; `batch`, the transactions; `decide` and `submission`, their decisions and inputs;
//! `context`, with what it holds: `cluster`, `events`, `dispatch`, `admission`, `evaluate`, `cache`,
//! `observe`; and `plan`.

pub mod admission;
pub mod batch;
pub mod cache;
pub mod cluster;
pub mod context;
pub mod counters;
pub mod decide;
pub mod dispatch;
pub mod evaluate;
pub mod events;
pub mod hash;
mod loops;
pub mod maintenance;
pub mod observe;
pub mod operations;
pub mod plan;
pub mod submission;
pub mod time;

use std::{sync::Arc, time::Duration};

use uuid::Uuid;

use self::{
    admission::control::Admission,
    batch::{
        dispatch::Dispatcher,
        intake::{Intake, IntakeQueue},
        queue::SettleQueue,
        runner::Runner,
        settle::Settle,
    },
    cache::{backlog::Backlog, templates::TemplateCache},
    cluster::{membership::Membership, notifications::NotificationLoop},
    context::EngineContext,
    events::{named::Encode, reader::Events},
    loops::Loops,
    maintenance::{
        auditor::{Auditor, Audits},
        leases::{Heartbeats, Leases},
        retention::Retention,
        services::ServicesLoop,
    },
    observe::{health::HealthCell, metrics::Metrics, traces::Traces},
    operations::{
        pause,
        retire::{self, RetireError},
    },
    plan::compiled::Plan,
};
use crate::{
    store::{Db, StoreError, pause::PauseRow, retirement::Retirement, service::Actor},
    telemetry::Tracer,
};

/// Longest retry of transient errors at a start, and the interval between tries.
const START_WAIT: Duration = Duration::from_secs(10);
const START_PAUSE: Duration = Duration::from_millis(250);
/// Interval between checks whether the workers have answered during a drain.
const DRAIN_CHECK: Duration = Duration::from_millis(50);

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
    pub encode_event: Encode,
}

/// A running engine. Cheap to clone; every surface holds one.
#[derive(Clone)]
pub struct Engine {
    pub server_id: Uuid,
    pub context: EngineContext,
    pub intake: IntakeQueue,
    pub settle: SettleQueue,
    pub heartbeats: Heartbeats,
    pub audits: Arc<Audits>,
    pub backlog: Arc<Backlog>,
    pub lease: Duration,
    loops: Loops,
}

impl Engine {
    /// Reads the templates and starts the loops.
    pub async fn start(db: Db, config: EngineConfig) -> Result<Self, StoreError> {
        let server_id = Uuid::new_v4();
        let retention = Retention {
            db: db.clone(),
            retain: config.retain,
        };
        let loops = Loops::default();
        let (traces, exporter) =
            Traces::new(config.tracer, db.clone(), Arc::clone(&config.metrics));
        let events = Events::new(
            db.clone(),
            config.encode_event,
            HealthCell::default(),
            loops.shutdown().clone(),
        );
        let templates = Arc::new(TemplateCache::new(
            db.clone(),
            Arc::clone(&config.metrics),
            config.environment,
        ));
        let admission = Admission::new(server_id);
        read_templates_and_services(&db, &templates, &admission).await?;
        // Before the first event of a new day: a day that begins without a partition never gets
        // one.
        if let Err(error) = retention.prepare().await {
            tracing::warn!(%error, "partitions of the event log cannot be created; events go to the default partition");
        }
        let context = EngineContext::new(
            db,
            templates,
            admission,
            Membership::new(server_id),
            events,
            config.metrics,
            traces,
        );
        context.health.database(true);
        if let Some(exporter) = exporter {
            loops.start("traces", |end| exporter.run(end));
        }
        loops.start("retention", |end| retention.run(end));
        let notifications = NotificationLoop {
            db: context.db.clone(),
            membership: Arc::clone(&context.membership),
            templates: Arc::clone(&context.templates),
            registry: Arc::clone(&context.registry),
            admission: context.admission.clone(),
            watchers: context.watchers.clone(),
            events: context.events.clone(),
            address: config.address,
        };
        loops.start("peers", |end| notifications.run(end));
        Ok(Self::with_loops(server_id, context, config.lease, loops))
    }

    /// Starts the loops that need nothing but the context.
    fn with_loops(server_id: Uuid, context: EngineContext, lease: Duration, loops: Loops) -> Self {
        let (results, settle) = Settle::new(context.clone(), loops.clone());
        let (intake_loop, intake) = Intake::new(context.clone(), settle.clone());
        let (auditor, audits) = Auditor::new(context.clone());
        let heartbeats = Heartbeats::default();
        let leases = Leases::new(
            server_id,
            &context,
            settle.clone(),
            heartbeats.clone(),
            lease,
        );
        let dispatcher = Dispatcher::new(context.clone(), settle.clone());
        let services = ServicesLoop::new(&context);
        loops.start("settle", |end| {
            Runner::new(context.clone(), settle.clone(), results).run(end)
        });
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
        let (pulses, events) = (&context.pulses, &context.events);
        loops.start("pulses", |end| {
            let evaluator = context.evaluator.clone();
            pulses
                .clone()
                .run(context.health.clone(), move || evaluator.is_stuck(), end)
        });
        loops.start("events", |end| {
            events.clone().run_reader(pulses.clone(), end)
        });
        loops.start("marks", |end| events.clone().run_marks(end));
        loops.all_started();
        let backlog = Backlog::new(context.db.clone(), Arc::clone(&context.templates));
        Self {
            server_id,
            intake,
            settle,
            heartbeats,
            audits,
            backlog: Arc::new(backlog),
            lease,
            context,
            loops,
        }
    }

    /// Applies the lanes and services of a newly registered template.
    pub async fn templates_changed(&self) -> Result<(), StoreError> {
        self.context
            .registry
            .relane(&self.context.templates.lanes());
        self.context.refresh_admission().await
    }

    /// Pauses a template, or a namespace. After a successful return, none of its steps starts.
    pub async fn pause(
        &self,
        namespace: &str,
        task_name: &str,
        actor: &Actor,
    ) -> Result<PauseRow, StoreError> {
        pause::pause(&self.context, namespace, task_name, actor).await
    }

    /// Lifts such a pause. Returns false if there was none.
    pub async fn resume(
        &self,
        namespace: &str,
        task_name: &str,
        actor: &Actor,
    ) -> Result<bool, StoreError> {
        pause::resume(&self.context, namespace, task_name, actor).await
    }

    /// Retires a version of a template that no unfinished task uses. After a successful return, no
    /// server accepts a task of it.
    pub async fn retire(&self, plan: &Plan, actor: &Actor) -> Result<Arc<Retirement>, RetireError> {
        retire::retire(&self.context, plan, actor).await
    }

    /// Stops assignments, notifies the workers, and waits until they have answered or `grace` is
    /// over.
    pub async fn drain(&self, grace: Duration) {
        let EngineContext {
            health, registry, ..
        } = &self.context;
        // NOT_SERVING first, so that clients and workers choose another server.
        health.drain();
        registry.drain(grace);
        let answered = async {
            while registry.in_flight() > 0 {
                tokio::time::sleep(DRAIN_CHECK).await;
            }
        };
        if tokio::time::timeout(grace, answered).await.is_err() {
            tracing::warn!(
                steps = registry.in_flight(),
                "the drain timeout passed with steps in progress; their workers keep their leases and report to another server"
            );
        }
    }

    /// Resolves when a loop of the engine has panicked. The process should then exit, as the other
    /// loops cannot do its work.
    pub async fn failed(&self) {
        self.loops.failed().await;
    }

    /// Resolves when the engine is asked to stop.
    pub async fn stopping(&self) {
        self.loops.stopping().await;
    }

    /// Stops the loops after they have stored the queued inputs; waits at most 5 s. May be called
    /// twice.
    pub async fn stop(&self) {
        self.loops.stop().await;
    }
}

/// Reads the templates and the services. Retries transient errors for `START_WAIT`, so a short
/// database outage does not abort the start.
async fn read_templates_and_services(
    db: &Db,
    templates: &TemplateCache,
    admission: &Admission,
) -> Result<(), StoreError> {
    let mut asked = tokio::time::Instant::now();
    let mut newest = templates.newest();
    loop {
        let read = async {
            templates.load().await?;
            templates.take_new_lanes();
            admission.refresh(db, templates).await
        };
        let read = read.await;
        // Pages that were read are kept, so progress restarts the wait.
        if std::mem::replace(&mut newest, templates.newest()) != newest {
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
