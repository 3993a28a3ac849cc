//! Settling: applies every input that ends an attempt or a task, and assigns the steps that become
//! ready. Nothing is parsed or evaluated inside the transaction: results, planners' answers and
//! conditions are evaluated before it (`queue`).

use std::{collections::BTreeMap, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    kind::{Batch, Decided, Read, Reading},
    policy::Inputs,
    publish::Messages,
    queue::SettleQueue,
};
use crate::{
    domain::{
        attempt::{Outcome, OutcomeKind},
        lease::Lease,
        order::{Order, OrderError},
    },
    engine::{
        context::EngineContext,
        decide::{
            decision::Decision,
            input::{
                Input, PendingInput, children_of, keys_of, leases_of, missing, one_order_a_task,
                ordered,
            },
            refused::replace,
        },
        dispatch::{message::CancelReason, reservation::SlotReservation},
        evaluate::verdicts::EvaluationRequest,
        hash::{HashMap, HashSet},
        loops::Loops,
        observe::metrics::Loop,
        plan::compiled::Plans,
    },
    store::{
        StoreError,
        pipeline::{Changes, LaneDemand, Pipeline, SettleRead},
    },
};

/// Maximum inputs per transaction.
const MAX_BATCH: usize = 512;
/// Maximum inputs in the queue.
const MAX_QUEUE: usize = 4_096;
/// Delay before an input is tried again whose rows another transaction keeps locked.
const ASIDE: Duration = Duration::from_secs(3);
/// Maximum wait for pending evaluations at shutdown.
const LAST_VERDICTS: Duration = Duration::from_secs(3);

/// The batches of settling.
pub struct Settle {
    context: EngineContext,
    queue: mpsc::Receiver<PendingInput>,
    /// Evaluated inputs, undelivered claims and those of uncertain commits, inputs that were set
    /// aside, expired tasks.
    again: mpsc::UnboundedReceiver<PendingInput>,
    /// Queues inputs that settling creates itself.
    own: SettleQueue,
    loops: Loops,
    /// The end of the wait for evaluations, once the queue is closed.
    last_verdicts: Option<Instant>,
}

/// The rows of a batch.
pub struct SettleRows {
    read: SettleRead,
    /// The outcomes of attempts whose results came late or twice.
    past: HashMap<Lease, OutcomeKind>,
}

/// The replies to the inputs, by their position.
pub struct SettleReplies {
    refused: HashMap<usize, OrderError>,
    /// Inputs that need an evaluation first.
    evaluations: HashMap<usize, EvaluationRequest>,
}

impl Settle {
    pub fn new(context: EngineContext, loops: Loops) -> (Self, SettleQueue) {
        let (sender, queue) = mpsc::channel(MAX_QUEUE);
        let (come, again) = mpsc::unbounded_channel();
        let own = SettleQueue::new(context.clone(), loops.clone(), sender, come);
        let settle = Self {
            context,
            queue,
            again,
            own: own.clone(),
            loops,
            last_verdicts: None,
        };
        (settle, own)
    }

    /// Closes and drains the queue, then waits up to `LAST_VERDICTS` for evaluations under way.
    async fn gather_last(&mut self, batch: &mut Vec<PendingInput>) {
        self.queue.close();
        let until = *self
            .last_verdicts
            .get_or_insert_with(|| Instant::now() + LAST_VERDICTS);
        if self.queue.recv_many(batch, MAX_BATCH).await == 0 && self.own.is_evaluating() {
            let evaluated = tokio::time::timeout_at(until, self.again.recv()).await;
            batch.extend(evaluated.ok().flatten());
        }
    }

    /// Returns the input rows, and whether they come from the attempt cache. The cache is used only
    /// if it has all rows and no lane has to be scanned: then no queued step competes for the freed
    /// slots.
    async fn rows(
        &self,
        hot: &Pipeline,
        inputs: &[PendingInput],
        demand: &[LaneDemand],
    ) -> Result<(SettleRead, bool), StoreError> {
        if demand.is_empty()
            && let Some(cached) = self.cached(inputs)
        {
            return Ok((cached, true));
        }
        let (leases, tasks, ordered) = keys_of(inputs);
        let read = hot.begin_settle(&leases, &tasks, &ordered, demand).await?;
        Ok((read, false))
    }

    /// Returns the rows from the cache if every input is a success of an attempt that this server
    /// started.
    fn cached(&self, inputs: &[PendingInput]) -> Option<SettleRead> {
        let attempts = inputs.iter().map(successful_attempt);
        let mut attempts: Vec<(Lease, Uuid)> = attempts.collect::<Option<_>>()?;
        attempts.sort_unstable_by_key(|(lease, _)| (lease.task_id, lease.step));
        attempts.dedup_by_key(|(lease, _)| (lease.task_id, lease.step));
        self.context.attempts.read(&attempts)
    }

    async fn plans(&self, read: &SettleRead) -> Result<Plans, StoreError> {
        let templates = &self.context.templates;
        let queued = read.candidates.iter().map(|c| c.template_id);
        let mut plans = templates.readable(queued).await?;
        let own = read.tasks.iter().map(|task| task.template_id);
        for id in own.collect::<HashSet<_>>() {
            plans.insert(id, templates.plan(id).await?);
        }
        Ok(plans)
    }
}

impl Batch for Settle {
    type Input = PendingInput;
    type Rows = SettleRows;
    type Replies = SettleReplies;

    const LOOP: Loop = Loop::Settle;
    const INPUTS: Inputs = Inputs::Kept;

    async fn gather(&mut self, shutdown: &CancellationToken) -> Option<Vec<PendingInput>> {
        let (mut batch, mut again) = (Vec::new(), Vec::new());
        tokio::select! {
            biased;
            // First, as these inputs have waited before.
            _ = self.again.recv_many(&mut again, MAX_BATCH) => batch = again,
            // A closed queue is at its end, and `gather_last` waits for the rest.
            _ = self.queue.recv_many(&mut batch, MAX_BATCH), if self.last_verdicts.is_none() => {}
            () = shutdown.cancelled() => self.gather_last(&mut batch).await,
        }
        (!batch.is_empty()).then_some(batch)
    }

    fn split(&self, inputs: Vec<PendingInput>) -> Vec<Vec<PendingInput>> {
        one_order_a_task(inputs)
    }

    fn wants(&self, inputs: &[PendingInput]) -> BTreeMap<i32, usize> {
        children_of(inputs)
    }

    /// Counts the attempts that the inputs may end, as their quota may be used again.
    fn demand(&self, slots: &SlotReservation, inputs: &mut [PendingInput]) -> Vec<LaneDemand> {
        let mut demand = slots.demand();
        let admission = &self.context.admission;
        admission.admit(&mut demand, &leases_of(inputs));
        demand
    }

    async fn read(
        &self,
        hot: &Pipeline,
        inputs: &mut Vec<PendingInput>,
        demand: Vec<LaneDemand>,
    ) -> Result<Reading<SettleRows, PendingInput>, StoreError> {
        let (mut read, is_cached) = self.rows(hot, inputs, &demand).await?;
        let missing = missing(inputs, &read);
        let past = if missing.is_empty() {
            HashMap::default()
        } else {
            hot.past_outcomes(&missing).await?.into_iter().collect()
        };
        Ok(Reading::Rows(Read {
            plans: self.plans(&read).await?,
            candidates: std::mem::take(&mut read.candidates),
            now: read.now,
            is_cached,
            has_written: false,
            rows: SettleRows { read, past },
        }))
    }

    fn decide(&self, read: &Read<SettleRows>, inputs: &[PendingInput]) -> Decided<SettleReplies> {
        let SettleRows { read: rows, past } = &read.rows;
        let mut decision = Decision::new(rows, &read.plans).decide(inputs, past);
        if read.is_cached {
            expect(&mut decision.changes, rows);
        }
        let planned = decision.changes.planned.iter().map(|p| p.task_id);
        Decided {
            evicted: ordered(inputs).chain(planned).collect(),
            changes: decision.changes,
            messages: Messages {
                acks: decision.acks,
                cancelled: decision.cancelled,
                expiring: decision.expiring,
                changed_tasks: decision.changed_tasks,
                unserved: decision.resumed_lanes.into_iter().collect(),
            },
            calls: decision.calls,
            throttles: decision.throttles,
            failed_probes: decision.failed_probes,
            replies: SettleReplies {
                refused: decision.refused,
                evaluations: decision.evaluations,
            },
        }
    }

    fn evict(&self, rows: &SettleRows) {
        let tasks = rows.read.tasks.iter().map(|task| task.task_id);
        self.context.attempts.evict(tasks);
    }

    /// Replies to commands. Inputs that lack a verdict are evaluated and queued again.
    async fn reply(
        &mut self,
        inputs: Vec<PendingInput>,
        mut replies: SettleReplies,
        _claimed: usize,
    ) -> Vec<PendingInput> {
        for (i, pending) in inputs.into_iter().enumerate() {
            if let Some(request) = replies.evaluations.remove(&i) {
                self.own.evaluate_aside(pending, request);
                continue;
            }
            let Input::Order {
                task_id,
                order,
                reply,
                ..
            } = pending.input
            else {
                continue;
            };
            let answer = replies.refused.remove(&i).map_or(Ok(()), Err);
            if answer.is_ok() && order == Order::Cancel {
                // Includes leases that an earlier try ended in a commit of uncertain outcome.
                for lease in self.context.registry.leases_of(task_id) {
                    let registry = &self.context.registry;
                    registry.cancel(lease, CancelReason::TaskCancelled);
                }
            }
            let _ = reply.send(answer);
        }
        Vec::new()
    }

    /// Queues the input again after `ASIDE`. Few inputs wait so at a time: each has cost the loop a
    /// lock time-out.
    fn set_aside(&mut self, inputs: Vec<PendingInput>) {
        for input in inputs {
            let queue = self.own.clone();
            self.loops.spawn(async move {
                tokio::time::sleep(ASIDE).await;
                queue.requeue(input);
            });
        }
    }

    /// Ends inputs that cannot be settled. A worker's answer is settled with an error in place of
    /// its outcome, so its step fails and the worker's stream stays open.
    fn fail(&mut self, inputs: Vec<PendingInput>, error: StoreError) -> Vec<PendingInput> {
        let mut again = Vec::new();
        for mut pending in inputs {
            if replace(&mut pending, &error) {
                tracing::error!(%error, "a result cannot be settled; its step ends in error");
                again.push(pending);
                continue;
            }
            tracing::error!(%error, "an input cannot be settled and is dropped; its attempt ends at its deadline");
            match pending.input {
                Input::Order { reply, .. } => {
                    let _ = reply.send(Err(OrderError::Failed(error.to_string())));
                }
                // The error that replaced the result was refused too. The worker would wait for its
                // acknowledgement for ever, so its stream is closed; it reconnects and repeats the
                // result, perhaps to a server that can settle it.
                Input::Result { worker_id, .. } => {
                    drop(self.context.registry.remove(worker_id));
                }
                _ => {}
            }
        }
        again
    }
}

/// The attempt of a successful result, with its worker.
fn successful_attempt(input: &PendingInput) -> Option<(Lease, Uuid)> {
    match &**input {
        Input::Result {
            lease,
            outcome: Outcome::Succeeded(_),
            worker_id,
            ..
        } => Some((*lease, *worker_id)),
        _ => None,
    }
}

/// Sets the task progress that the writes have to find, so that they check the cached rows.
fn expect(changes: &mut Changes, read: &SettleRead) {
    for update in &mut changes.tasks {
        let before = read
            .tasks
            .iter()
            .find(|task| task.task_id == update.task_id);
        update.expected = before.map(|task| task.progress.clone());
    }
}
