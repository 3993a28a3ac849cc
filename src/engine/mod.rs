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
//! session   a worker's stream ─▶ registry, heartbeats, settle
//! ```
//!
//! [`Engine`] is all that the surfaces see: its modules are private, and its methods take and give
//! the types that are exported here.
//!
//! Imports between the folders run one way, from the top of this list to its end: `session`,
//! `operations` and `maintenance`; `batch`, the transactions; `decide` and `submission`, their decisions and inputs;
//! `context`, with what it holds: `cluster`, `events`, `dispatch`, `admission`, `evaluate`, `cache`,
//! `observe`; and `plan`.

mod admission;
mod batch;
mod cache;
mod cluster;
mod context;
mod counters;
mod decide;
mod dispatch;
mod evaluate;
mod events;
mod gauges;
mod hash;
mod lifecycle;
mod loops;
mod maintenance;
mod observe;
mod operations;
mod plan;
mod session;
mod submission;
mod time;

use std::{sync::Arc, time::Duration};

use semver::Version;
use tasker_template::{Checked, Problem};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

pub use self::{
    batch::queue::Closed,
    cache::{
        backlog::Waiting,
        templates::{RegisterError, Registered, Resolved},
    },
    counters::{Histogram, StepCounts},
    dispatch::{
        assignment::{Assignment, merge_annotations},
        message::{CancelReason, ToWorker},
    },
    events::{
        filter::Filter as EventFilter,
        named::{Encode, NamedEvent},
        subscription::{Delivery, Start as SubscriptionStart, SubscribeError, Subscription},
        watch::Watcher,
    },
    gauges::Gauges,
    observe::{
        health::{Health, HealthCell},
        listener::{ListenerCounts, Refusal},
        metrics::{Loop, MAX_LABEL_SETS, Metrics, OTHER},
        traces::Traces,
    },
    operations::{
        bulk::{BulkCommand, BulkError, BulkProgress, BulkReports},
        command::CommandError,
        retire::RetireError,
    },
    plan::{compiled::Plan, task_plan::TaskPlan},
    session::{FromWorker, RegistrationError, WorkerSession},
    submission::{
        queue::retry_after,
        request::{IntakeError, Submission, Submitted, Violated},
    },
};
use self::{
    batch::queue::SettleQueue,
    cache::backlog::Backlog,
    context::EngineContext,
    maintenance::auditor::Audits,
    operations::{bulk::Bulk, circuit, command, pause, retire, template},
    session::Sessions,
    submission::queue::IntakeQueue,
};
// Parts that tests drive without an engine.
pub use self::{
    events::reader::{Events, MAX_SUBSCRIBERS},
    loops::Loops,
    maintenance::retention::Retention,
    observe::pulse::Pulses,
};
use crate::{
    domain::{circuit::CircuitState, order::Order, policy::Settings, worker::Registration},
    store::{
        Db, StoreError,
        explain::{self, Explained},
        pause::PauseRow,
        retirement::Retirement,
        service::{Actor, Scope},
    },
    telemetry::Tracer,
};

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

/// A running engine: the façade that every surface holds. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    context: EngineContext,
    intake: IntakeQueue,
    settle: SettleQueue,
    sessions: Sessions,
    audits: Arc<Audits>,
    backlog: Arc<Backlog>,
    loops: Loops,
    /// The tasks of calls: the sessions of workers, and bulk commands. They end by themselves, as
    /// the engine ends their inputs.
    calls: TaskTracker,
}

/// Tasks.
impl Engine {
    /// Stores tasks, all or none.
    pub async fn submit(&self, tasks: Vec<Submission>) -> Result<Vec<Submitted>, IntakeError> {
        if self.context.health.now().draining {
            return Err(IntakeError::ShuttingDown);
        }
        self.intake.submit(tasks).await
    }

    /// Applies a command of an operator to a task. Returns after its commit.
    pub async fn command(
        &self,
        task_id: Uuid,
        order: Order,
        actor: Actor,
    ) -> Result<(), CommandError> {
        command::command(&self.settle, task_id, order, actor).await
    }

    /// Applies a command to all tasks that a filter selects. It goes on while its reports are read.
    pub async fn command_all(&self, command: BulkCommand) -> Result<BulkReports, StoreError> {
        let bulk = Bulk {
            db: self.context.db.clone(),
            settle: self.settle.clone(),
            stopping: self.loops.shutdown().clone(),
            command,
        };
        let (reports, walk) = bulk.begin().await?;
        if let Some(walk) = walk {
            self.calls.spawn(walk);
        }
        Ok(reports)
    }

    /// Watches the changes of a task; `None` if too many tasks are watched on this server.
    pub fn watch(&self, task_id: Uuid) -> Option<Watcher> {
        self.context.watchers.watch(task_id)
    }

    /// Subscribes to the events of the cell.
    pub async fn subscribe(
        &self,
        start: SubscriptionStart,
        filter: EventFilter,
    ) -> Result<Subscription, SubscribeError> {
        self.context.events.subscribe(start, filter).await
    }

    /// The facts that explain a task's state, and its template; `None` if there is no such task.
    pub async fn explain(
        &self,
        task_id: Uuid,
    ) -> Result<Option<(Explained, Arc<Plan>)>, StoreError> {
        let Some(found) = explain::task(&self.context.db, task_id).await? else {
            return Ok(None);
        };
        let plan = self.plan(found.template_id).await?;
        Ok(Some((found, plan)))
    }
}

/// Templates.
impl Engine {
    /// Checks and stores a template. Returns its warnings too; with `deny_warnings`, a template
    /// with warnings is not stored.
    pub async fn register_template(
        &self,
        yaml: &str,
        deny_warnings: bool,
    ) -> Result<(Registered, Vec<Problem>), RegisterError> {
        template::register(&self.context, yaml, deny_warnings).await
    }

    /// Checks a template in this server's environment, without storing it.
    pub async fn check_template(&self, yaml: &str) -> Checked {
        self.context.templates.check(yaml).await
    }

    /// The part of `environments` that this server registers templates with; empty for none.
    pub fn environment(&self) -> &str {
        self.context.templates.environment()
    }

    /// The template of a stored task.
    pub async fn plan(&self, template_id: i32) -> Result<Arc<Plan>, StoreError> {
        self.context.templates.plan(template_id).await
    }

    /// A template by name, the newest version unless one is named. Includes the templates that
    /// other servers have registered before this call.
    pub async fn template(
        &self,
        namespace: &str,
        task_name: &str,
        version: Option<&Version>,
    ) -> Result<Option<Resolved>, StoreError> {
        let templates = &self.context.templates;
        templates.refresh().await?;
        Ok(templates.resolve(namespace, task_name, version))
    }

    /// The templates of a namespace and a name, each of which may be empty for all. Includes the
    /// templates that other servers have registered before this call.
    pub async fn templates(
        &self,
        namespace: &str,
        task_name: &str,
    ) -> Result<Vec<Arc<Plan>>, StoreError> {
        let templates = &self.context.templates;
        templates.refresh().await?;
        Ok(templates.list(namespace, task_name))
    }

    /// The retirement of a template that was listed; `None` if it is not retired.
    pub fn retirement(&self, template_id: i32) -> Option<Arc<Retirement>> {
        self.context.templates.retirement(template_id)
    }

    /// Retires a version of a template that no unfinished task uses. After a successful return, no
    /// server accepts a task of it.
    pub async fn retire(&self, plan: &Plan, actor: &Actor) -> Result<Arc<Retirement>, RetireError> {
        retire::retire(&self.context, plan, actor).await
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
}

/// Services and workers.
impl Engine {
    /// Changes the settings of a service, a namespace or the cell. `change` is applied under a lock
    /// to the settings that are stored, so that two concurrent changes do not undo each other.
    /// Returns the new settings; `None` if there is no such service.
    pub async fn set_policy(
        &self,
        scope: &Scope,
        change: impl FnOnce(&Settings) -> Settings,
        actor: &Actor,
    ) -> Result<Option<Settings>, StoreError> {
        circuit::set_policy(&self.context, scope, change, actor).await
    }

    /// Forces a circuit open or closed, for these seconds or until a reset. Returns false if there
    /// is no such service.
    pub async fn force_circuit(
        &self,
        scope: &Scope,
        to: CircuitState,
        seconds: Option<f64>,
        actor: &Actor,
    ) -> Result<bool, StoreError> {
        circuit::force(&self.context, scope, to, seconds, actor).await
    }

    /// Closes a circuit and ends a forced state. Returns false if there is no such service.
    pub async fn reset_circuit(&self, scope: &Scope, actor: &Actor) -> Result<bool, StoreError> {
        circuit::reset(&self.context, scope, actor).await
    }

    /// Stores a worker's connection and moves the leases that the worker still holds to it.
    pub async fn register_worker(
        &self,
        registration: Registration,
    ) -> Result<WorkerSession, RegistrationError> {
        self.sessions.register(registration).await
    }

    /// Whether a registered template has a handler or a namespace of this name.
    pub fn is_stored_name(&self, name: &str) -> bool {
        let lanes = self.context.templates.lanes();
        lanes
            .iter()
            .any(|lane| lane.handler == name || lane.namespace == name)
    }

    /// How long a worker may be silent before its steps are released.
    pub fn lease(&self) -> Duration {
        self.sessions.lease
    }
}

/// State for operators and surfaces.
impl Engine {
    pub fn health(&self) -> &HealthCell {
        &self.context.health
    }

    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.context.metrics
    }

    /// The present numbers of this server, and of the steps that wait in the cell.
    pub async fn gauges(&self) -> Gauges {
        Gauges::read(&self.context, &self.audits, &self.backlog).await
    }

    /// The traces, which know the parent of a worker's span.
    pub fn traces(&self) -> &Traces {
        &self.context.traces
    }

    /// The database for reads of single tasks and lists, by the functions of `store`, each of which
    /// has a time limit. A surface writes through the other methods alone.
    pub fn reads(&self) -> &Db {
        &self.context.db
    }
}
