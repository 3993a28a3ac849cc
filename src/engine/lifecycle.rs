//! The start of an engine, its drain and its end.

use std::{sync::Arc, time::Duration};

use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::{
    Engine, EngineConfig,
    admission::control::Admission,
    batch::{dispatch::Dispatch, intake::Intake, runner::Runner, settle::Settle},
    cache::{backlog::Backlog, templates::TemplateCache},
    cluster::notifications::NotificationLoop,
    context::EngineContext,
    dispatch::message::ToWorker,
    events::reader::Events,
    loops::Loops,
    maintenance::{
        auditor::Auditor,
        leases::{Heartbeats, Leases},
        retention::Retention,
        services::ServicesLoop,
    },
    observe::{health::HealthCell, traces::Traces},
    session::Sessions,
};
use crate::store::{Db, StoreError};

/// Longest retry of transient errors at a start, and the interval between tries.
const START_WAIT: Duration = Duration::from_secs(10);
const START_PAUSE: Duration = Duration::from_millis(250);
/// Interval between checks whether the workers have answered during a drain.
const DRAIN_CHECK: Duration = Duration::from_millis(50);
/// Maximum wait for the sessions of workers and the bulk commands to end by themselves.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

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
            loops.clone(),
        );
        let templates = Arc::new(TemplateCache::new(
            db.clone(),
            Arc::clone(&config.metrics),
            config.environment,
            loops.clone(),
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
            events,
            config.metrics,
            traces,
            &loops,
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
            loops: loops.clone(),
        };
        loops.start("peers", |end| notifications.run(end));
        Ok(Self::with_loops(server_id, context, config.lease, loops))
    }

    /// Starts the loops that need nothing but the context.
    fn with_loops(server_id: Uuid, context: EngineContext, lease: Duration, loops: Loops) -> Self {
        let (results, settle) = Settle::new(context.clone(), loops.clone());
        let (submits, intake) = Intake::new(context.clone(), loops.clone());
        let (auditor, audits) = Auditor::new(context.clone());
        let heartbeats = Heartbeats::default();
        let leases = Leases::new(
            server_id,
            &context,
            settle.clone(),
            heartbeats.clone(),
            lease,
        );
        let scans = Dispatch::new(context.clone());
        let services = ServicesLoop::new(&context);
        loops.start("settle", |end| {
            Runner::new(context.clone(), settle.clone(), results).run(end)
        });
        loops.start("intake", |end| {
            Runner::new(context.clone(), settle.clone(), submits).run(end)
        });
        loops.start("dispatch", |end| {
            Runner::new(context.clone(), settle.clone(), scans).run(end)
        });
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
        let calls = TaskTracker::default();
        let sessions = Sessions {
            server_id,
            db: context.db.clone(),
            registry: Arc::clone(&context.registry),
            templates: Arc::clone(&context.templates),
            settle: settle.clone(),
            heartbeats,
            lease,
            tasks: calls.clone(),
        };
        let backlog = Backlog::new(context.db.clone(), Arc::clone(&context.templates));
        Self {
            intake,
            settle,
            sessions,
            audits,
            backlog: Arc::new(backlog),
            context,
            loops,
            calls,
        }
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

    /// Stops the loops after they have stored the queued inputs, and the tasks that they have
    /// spawned; waits at most 5 s. May be called twice.
    pub async fn stop(&self) {
        self.loops.stop().await;
    }

    /// Ends the worker streams, whose workers keep their leases, and the bulk commands. To be
    /// called after [`Engine::stop`], so that the last acknowledgements have been sent.
    pub async fn close(&self) {
        self.context.registry.close_all(|| ToWorker::Closing);
        self.calls.close();
        let _ = tokio::time::timeout(CLOSE_LIMIT, self.calls.wait()).await;
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
