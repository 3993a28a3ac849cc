//! Spans and log lines about tasks and attempts: one span per task, per attempt and per
//! transaction.
//!
//! Engine transactions are batches, so no span can be open meanwhile: each is created afterwards
//! from the committed changes, with its true times. Ids follow from the task and the attempt, so a
//! worker can name the attempt's span as its parent while the attempt still runs, on any server. No
//! loop waits for this; transactions beyond the queue are left out and counted. Without a collector
//! and without a log at that level, none of it runs.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    Context, KeyValue,
    trace::{
        Link, Span as _, SpanContext, SpanId, Status, TraceContextExt as _, TraceFlags, TraceId,
        TraceState, Tracer as _,
    },
};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::metrics::{Loop, Metrics};
use crate::{
    domain::{
        attempt::{Failure, OutcomeKind},
        task::TaskState,
    },
    engine::plan::compiled::{Plan, Plans},
    store::{
        Db,
        pipeline::Changes,
        trace::{self, Traced},
    },
    telemetry::{self, Tracer},
};

/// The target of the log lines about tasks; their level is debug.
pub const TARGET: &str = "tasker::tasks";
/// Maximum transactions in the queue, and per round.
const MAX_QUEUE: usize = 1_024;
const MAX_AT_ONCE: usize = 64;
/// Maximum links from a transaction's span to the attempts that it ended.
const MAX_LINKS: usize = 32;
/// Maximum wait for each of the last batches at shutdown.
const LAST: Duration = Duration::from_millis(200);

/// The record of one transaction.
struct Record {
    of: Loop,
    inputs: usize,
    at: SystemTime,
    took: Duration,
    attempts: Vec<Attempt>,
    tasks: Vec<(Uuid, Arc<Plan>, TaskState)>,
}

struct Attempt {
    task_id: Uuid,
    step: i16,
    plan: Arc<Plan>,
    number: i32,
    outcome: OutcomeKind,
    started_at: SystemTime,
    ended_at: SystemTime,
    failure: Option<Failure>,
}

/// The sending end of the queue. Cheap to clone.
#[derive(Clone, Default)]
pub struct Traces {
    sender: Option<mpsc::Sender<Record>>,
    exports: bool,
    metrics: Arc<Metrics>,
}

/// The loop that creates spans and log lines.
pub struct TracesLoop {
    queue: mpsc::Receiver<Record>,
    tracer: Option<Tracer>,
    db: Db,
}

impl Traces {
    /// Without a tracer and a log that takes lines about tasks, nothing is recorded and there is no
    /// loop.
    pub fn new(
        tracer: Option<Tracer>,
        db: Db,
        metrics: Arc<Metrics>,
    ) -> (Self, Option<TracesLoop>) {
        if tracer.is_none() && !tracing::enabled!(target: TARGET, tracing::Level::DEBUG) {
            return (Self::default(), None);
        }
        let (sender, queue) = mpsc::channel(MAX_QUEUE);
        let traces = Self {
            sender: Some(sender),
            exports: tracer.is_some(),
            metrics,
        };
        (traces, Some(TracesLoop { queue, tracer, db }))
    }

    /// The parent of a worker's span for an attempt: the attempt's own span if it is exported, else
    /// the client's.
    pub fn parent(
        &self,
        traceparent: Option<&str>,
        task_id: Uuid,
        step: i16,
        attempt: i32,
    ) -> String {
        if !self.exports {
            return traceparent.unwrap_or_default().to_owned();
        }
        telemetry::format(&Ids::of(traceparent, task_id).attempt(step, attempt))
    }

    /// Records a committed transaction. Never waits.
    pub fn committed(
        &self,
        of: Loop,
        inputs: usize,
        took: Duration,
        changes: &Changes,
        plans: &Plans,
        at: SystemTime,
    ) {
        let Some(sender) = &self.sender else { return };
        for task in &changes.new_tasks {
            let (task_id, id) = (task.task_id, &task.correlation_id);
            tracing::debug!(target: TARGET, %task_id, correlation_id = id, "task submitted");
        }
        let ended = changes.events.iter().filter_map(|e| {
            let plan = plans.get(&e.template_id?)?;
            let (task_id, step, number, outcome, started_at) =
                (e.task_id?, e.step?, e.attempt?, e.outcome?, e.started_at?);
            let (plan, failure) = (Arc::clone(plan), e.failure.clone());
            Some(Attempt {
                task_id,
                step,
                plan,
                number,
                outcome,
                started_at,
                ended_at: at,
                failure,
            })
        });
        let retried = changes.retries.iter().filter_map(|retry| {
            let a = &retry.attempt;
            let (plan, failure) = (Arc::clone(plans.get(&a.template_id)?), a.failure.clone());
            let (task_id, step, number, outcome, started_at) =
                (a.task_id, a.step, a.attempt, a.outcome, a.started_at);
            Some(Attempt {
                task_id,
                step,
                plan,
                number,
                outcome,
                started_at,
                ended_at: at,
                failure,
            })
        });
        let attempts: Vec<Attempt> = ended.chain(retried).collect();
        let tasks = changes.events.iter().filter_map(|e| {
            let state = TaskState::after_event(e.kind)?;
            Some((e.task_id?, Arc::clone(plans.get(&e.template_id?)?), state))
        });
        let records = Record {
            of,
            inputs,
            at,
            took,
            attempts,
            tasks: tasks.collect(),
        };
        if sender.try_send(records).is_err() {
            self.metrics.untold.add(1);
        }
    }
}

impl TracesLoop {
    /// Runs until `shutdown`, then processes the transactions committed by then.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut records = Vec::with_capacity(MAX_AT_ONCE);
        loop {
            let more = self.queue.recv_many(&mut records, MAX_AT_ONCE);
            tokio::select! {
                n = more => if n == 0 { return },
                () = shutdown.cancelled() => break,
            }
            self.tell(&mut records).await;
        }
        while let Ok(1..) =
            tokio::time::timeout(LAST, self.queue.recv_many(&mut records, MAX_AT_ONCE)).await
        {
            self.tell(&mut records).await;
        }
    }

    async fn tell(&self, records: &mut Vec<Record>) {
        let of = |t: &Record| {
            t.attempts
                .iter()
                .map(|a| a.task_id)
                .chain(t.tasks.iter().map(|task| task.0))
                .collect::<Vec<_>>()
        };
        let mut ids: Vec<Uuid> = records.iter().flat_map(of).collect();
        ids.sort_unstable();
        ids.dedup();
        let tasks = match trace::tasks(&self.db, &ids).await {
            Ok(tasks) => tasks,
            Err(error) => {
                tracing::debug!(%error, transactions = records.len(), "the outcome of traced tasks cannot be read");
                HashMap::new()
            }
        };
        for t in records.drain(..) {
            let known = t
                .attempts
                .iter()
                .filter_map(|a| Some((a, tasks.get(&a.task_id)?)));
            known.for_each(|(attempt, task)| self.attempt(attempt, task));
            let known = t
                .tasks
                .iter()
                .filter_map(|(id, plan, state)| Some((id, plan, *state, tasks.get(id)?)));
            known.for_each(|(id, plan, state, task)| self.task(*id, plan, state, task));
            self.transaction(&t, &tasks);
        }
    }

    fn attempt(&self, attempt: &Attempt, task: &Traced) {
        let Some(step) = attempt.plan.step(attempt.step) else {
            return;
        };
        let (task_id, outcome) = (attempt.task_id, attempt.outcome.as_str());
        tracing::debug!(
            target: TARGET, %task_id, correlation_id = task.correlation_id, step = step.name, attempt = attempt.number, outcome,
            error_code = attempt.failure.as_ref().map(|f| f.code.as_str()), "attempt ended"
        );
        let Some(tracer) = &self.tracer else { return };
        let ids = Ids::of(task.traceparent.as_deref(), task_id);
        let mut attributes = common(task_id, &attempt.plan, task);
        attributes.extend([
            KeyValue::new("tasker.step", step.name.clone()),
            KeyValue::new("tasker.handler", step.handler.clone()),
            KeyValue::new("tasker.service", step.service.clone()),
            KeyValue::new("tasker.attempt", i64::from(attempt.number)),
            KeyValue::new("tasker.outcome", outcome),
        ]);
        let own = ids.attempt(attempt.step, attempt.number);
        let mut span = started(
            tracer,
            step.name.clone(),
            &own,
            Some(ids.task()),
            attempt.started_at,
            attributes,
        );
        if let Some(failure) = &attempt.failure {
            span.set_attribute(KeyValue::new("error.type", failure.code.clone()));
            span.set_status(Status::error(failure.message.clone()));
        }
        span.end_with_timestamp(attempt.ended_at);
    }

    fn task(&self, task_id: Uuid, plan: &Plan, state: TaskState, task: &Traced) {
        tracing::debug!(target: TARGET, %task_id, correlation_id = task.correlation_id, %state, "task ended");
        let Some(tracer) = &self.tracer else { return };
        let ids = Ids::of(task.traceparent.as_deref(), task_id);
        let mut attributes = common(task_id, plan, task);
        attributes.push(KeyValue::new(
            "tasker.version",
            plan.template.version.to_string(),
        ));
        attributes.push(KeyValue::new("tasker.state", state.to_string()));
        let name = format!("{}/{}", plan.template.namespace, plan.template.task_name);
        let mut span = started(
            tracer,
            name,
            &ids.task(),
            ids.client.clone(),
            task.submitted_at,
            attributes,
        );
        if state == TaskState::Error {
            span.set_status(Status::error("a step failed"));
        }
        span.end_with_timestamp(task.ended_at.unwrap_or(task.submitted_at));
    }

    /// A trace of its own, linked to the attempts' spans.
    fn transaction(&self, records: &Record, tasks: &HashMap<Uuid, Traced>) {
        let Some(tracer) = &self.tracer else { return };
        let link = |a: &Attempt| {
            let ids = Ids::of(tasks.get(&a.task_id)?.traceparent.as_deref(), a.task_id);
            Some(Link::with_context(ids.attempt(a.step, a.number)))
        };
        let inputs = i64::try_from(records.inputs).unwrap_or(i64::MAX);
        let mut span = tracer
            .span_builder(format!("{} transaction", records.of.as_str()))
            .with_start_time(records.at)
            .with_attributes([KeyValue::new("tasker.inputs", inputs)])
            .with_links(
                records
                    .attempts
                    .iter()
                    .filter_map(link)
                    .take(MAX_LINKS)
                    .collect(),
            )
            .start_with_context(tracer, &Context::new());
        span.end_with_timestamp(records.at + records.took);
    }
}

fn common(task_id: Uuid, plan: &Plan, task: &Traced) -> Vec<KeyValue> {
    vec![
        KeyValue::new("tasker.task_id", task_id.to_string()),
        KeyValue::new("tasker.correlation_id", task.correlation_id.clone()),
        KeyValue::new("tasker.namespace", plan.template.namespace.clone()),
        KeyValue::new("tasker.task_name", plan.template.task_name.clone()),
    ]
}

fn started(
    tracer: &Tracer,
    name: String,
    own: &SpanContext,
    parent: Option<SpanContext>,
    at: SystemTime,
    attributes: Vec<KeyValue>,
) -> opentelemetry_sdk::trace::Span {
    let parent = parent.map_or_else(Context::new, |parent| {
        Context::new().with_remote_span_context(parent)
    });
    let builder = tracer
        .span_builder(name)
        .with_start_time(at)
        .with_attributes(attributes);
    telemetry::with_ids(own.trace_id(), own.span_id(), || {
        builder.start_with_context(tracer, &parent)
    })
}

/// The ids of a task's spans.
struct Ids {
    task_id: Uuid,
    /// The client's span, if the submit named one.
    client: Option<SpanContext>,
}

impl Ids {
    fn of(traceparent: Option<&str>, task_id: Uuid) -> Self {
        Self {
            task_id,
            client: traceparent.and_then(telemetry::parse),
        }
    }

    /// A task whose client has no trace begins one with the task's id.
    fn context(&self, span: SpanId) -> SpanContext {
        let (trace, flags) = match &self.client {
            Some(client) => (client.trace_id(), client.trace_flags()),
            None => (
                TraceId::from_bytes(self.task_id.into_bytes()),
                TraceFlags::SAMPLED,
            ),
        };
        SpanContext::new(trace, span, flags, true, TraceState::NONE)
    }

    fn task(&self) -> SpanContext {
        self.context(span_id(&[self.task_id.as_bytes()]))
    }

    fn attempt(&self, step: i16, number: i32) -> SpanContext {
        self.context(span_id(&[
            self.task_id.as_bytes(),
            &step.to_be_bytes(),
            &number.to_be_bytes(),
        ]))
    }
}

/// The same on every server, and does not reveal the lease.
fn span_id(parts: &[&[u8]]) -> SpanId {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    let digest = hash.finalize();
    SpanId::from_bytes(std::array::from_fn(|i| digest[i]))
}
