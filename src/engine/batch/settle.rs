//! The settle loop. It applies every input that ends an attempt or a task and assigns the steps
//! that become ready, in one transaction per batch. Inputs gather while a transaction is in flight,
//! so a batch is one input when idle and hundreds under load.
//!
//! The transaction parses and evaluates nothing: results, planners' answers and conditions are
//! evaluated before it (`queue`, `judging`).

use std::{collections::BTreeMap, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{failing::Failing, queue::SettleQueue, weigh::weigh};
use crate::{
    domain::{
        attempt::Outcome,
        lease::Lease,
        order::{Order, OrderError},
    },
    engine::{
        context::EngineContext,
        decide::{
            decision::Decision,
            finish::{delay_failed_probes, unserved_lanes},
            input::{
                Input, PendingInput, children_of, keys_of, leases_of, missing, one_order_a_task,
                ordered,
            },
            refused::replace,
        },
        dispatch::{
            allocator::{Allocation, allocate, lost},
            assignment,
            message::{CancelReason, ToWorker},
            reservation::deliver,
        },
        evaluate::verdicts::EvaluationRequest,
        hash::{HashMap, HashSet},
        observe::metrics::Loop,
        plan::compiled::Plans,
    },
    store::{
        StoreError,
        collision_metrics::Collision,
        pipeline::{Applied, Changes, Claimed, LaneDemand, Pipeline, SettleRead, WantedInputs},
    },
};

/// Maximum inputs per transaction.
const MAX_BATCH: usize = 512;
/// Maximum inputs in the queue.
const MAX_QUEUE: usize = 4_096;
/// First and longest back-off between tries while the database is away.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Collisions with other transactions before the batch is halved to isolate the colliding input.
const COLLISIONS: usize = 5;
/// Delay before an input is tried again whose rows another transaction keeps locked.
const ASIDE: Duration = Duration::from_secs(3);
/// Maximum wait for pending evaluations at shutdown.
const LAST_VERDICTS: Duration = Duration::from_secs(3);

/// The settle loop.
pub struct Settler {
    context: EngineContext,
    queue: mpsc::Receiver<PendingInput>,
    /// Evaluated inputs, claims of uncertain commits, inputs that were set aside, expired tasks.
    again: mpsc::UnboundedReceiver<PendingInput>,
    /// Queues inputs that this loop creates itself.
    own: SettleQueue,
    hot: Option<Pipeline>,
}

impl Settler {
    pub fn new(context: EngineContext) -> (Self, SettleQueue) {
        let (sender, queue) = mpsc::channel(MAX_QUEUE);
        let (come, again) = mpsc::unbounded_channel();
        let own = SettleQueue::new(context.clone(), sender, come);
        (
            Self {
                context,
                queue,
                again,
                own: own.clone(),
                hot: None,
            },
            own,
        )
    }

    /// Runs until `shutdown`, then settles the queued inputs and returns.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let (mut batch, mut judged) = (Vec::with_capacity(MAX_BATCH), Vec::new());
        let mut last_verdicts = None;
        loop {
            tokio::select! {
                biased;
                _ = self.again.recv_many(&mut judged, MAX_BATCH) => {}
                n = self.queue.recv_many(&mut batch, MAX_BATCH) => if n == 0 { return },
                // Closes and drains the queue, then waits up to `LAST_VERDICTS` for evaluations
                // under way.
                () = shutdown.cancelled() => {
                    self.queue.close();
                    let until = *last_verdicts.get_or_insert_with(|| Instant::now() + LAST_VERDICTS);
                    if self.queue.recv_many(&mut batch, MAX_BATCH).await == 0 && !self.verdict(&mut batch, until).await {
                        return;
                    }
                }
            }
            batch.append(&mut judged);
            self.context.pulses.beat("settle");
            self.settle_all(std::mem::take(&mut batch), &shutdown).await;
            self.context.pulses.rest("settle");
        }
    }

    /// Waits until `until` for one pending evaluation. Returns false if none is pending or none
    /// came in time.
    async fn verdict(&mut self, batch: &mut Vec<PendingInput>, until: Instant) -> bool {
        if !self.own.is_evaluating() {
            return false;
        }
        match tokio::time::timeout_at(until, self.again.recv()).await {
            Ok(Some(judged)) => {
                batch.push(judged);
                true
            }
            _ => false,
        }
    }

    /// Settles every input, with back-off for as long as the database is away. Halving isolates an
    /// input that the database refuses for good, so it delays no other.
    async fn settle_all(&mut self, inputs: Vec<PendingInput>, shutdown: &CancellationToken) {
        let mut work = one_order_a_task(inputs);
        let (mut pause, mut collisions, mut failing) = (RETRY_PAUSE.0, 0, Failing::default());
        while let Some(mut inputs) = work.pop() {
            match self.run_once(&mut inputs).await {
                Ok(undelivered) => {
                    (pause, collisions) = (RETRY_PAUSE.0, 0);
                    failing.passed();
                    self.context.pulses.beat("settle");
                    self.context.health.database(true);
                    // Settled before the rest of the work: the steps wait for another worker.
                    if !undelivered.is_empty() {
                        work.push(undelivered);
                    }
                }
                // The order of the arms matters: a collision is transient too, but is isolated by
                // halving instead of being retried as a whole for ever.
                Err(error) if self.is_stubborn(&error, &mut collisions) => {
                    if inputs.len() > 1 {
                        halve(&mut work, inputs);
                    } else {
                        tracing::warn!(%error, "another session keeps rows of a task locked; its inputs wait");
                        inputs.into_iter().for_each(|input| self.set_aside(input));
                        collisions = 0;
                    }
                }
                // Transient: the batch is retried as a whole after a back-off, unless it keeps
                // failing the same way.
                Err(error) if error.is_transient() && !failing.again(&error, inputs.len()) => {
                    tracing::debug!(%error, inputs = inputs.len(), "settling failed; retrying");
                    self.hot.take_if(|hot| hot.is_closed());
                    // At shutdown the loop does not wait for a database that is away.
                    if shutdown.is_cancelled() && self.hot.is_none() {
                        return;
                    }
                    work.push(inputs);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_PAUSE.1);
                }
                Err(error) if inputs.len() > 1 => {
                    tracing::warn!(%error, inputs = inputs.len(), "settling failed; the batch is split");
                    self.hot.take_if(|hot| hot.is_closed());
                    halve(&mut work, inputs);
                }
                Err(error) => {
                    self.hot.take_if(|hot| hot.is_closed());
                    // The failures counted so far were this input's own.
                    failing.passed();
                    work.extend(
                        inputs
                            .pop()
                            .and_then(|input| self.end(input, &error))
                            .map(|input| vec![input]),
                    );
                }
            }
        }
    }

    /// Ends an input that cannot be settled. For a worker's answer, returns the same input with an
    /// error in place of the outcome, so its step fails and the worker's stream stays open.
    fn end(&self, mut pending: PendingInput, error: &StoreError) -> Option<PendingInput> {
        if replace(&mut pending, error) {
            tracing::error!(%error, "a result cannot be settled; its step ends in error");
            return Some(pending);
        }
        match pending.input {
            Input::Order { reply, .. } => {
                let _ = reply.send(Err(OrderError::Failed(error.to_string())));
            }
            // The error that replaced the result was refused too. The worker would wait for its
            // acknowledgement for ever, so its stream is closed; it reconnects and repeats the
            // result, perhaps to a server that can settle it.
            Input::Result { worker_id, .. } => drop(self.context.registry.remove(worker_id)),
            _ => {}
        }
        tracing::error!(%error, "an input cannot be settled and is dropped; its attempt ends at its deadline");
        None
    }

    /// Counts a collision. Returns true if the batch has to be halved: on a lock time-out, or after
    /// more than `COLLISIONS` collisions.
    fn is_stubborn(&self, error: &StoreError, collisions: &mut usize) -> bool {
        self.context.db.collisions().note(error);
        let Some(kind) = error.collision() else {
            return false;
        };
        *collisions += 1;
        kind == Collision::Lock || *collisions > COLLISIONS
    }

    /// Queues an input again after `ASIDE`. Few inputs wait so at a time: each has cost the loop a
    /// lock time-out.
    fn set_aside(&self, pending: PendingInput) {
        let queue = self.own.clone();
        tokio::spawn(async move {
            tokio::time::sleep(ASIDE).await;
            queue.requeue(pending);
        });
    }

    /// Runs one transaction, with up to three tries. On success `inputs` is empty, and the returned
    /// inputs have to be settled next: attempts whose worker left before its assignment was sent.
    /// On failure `inputs` is unchanged.
    pub async fn run_once(
        &mut self,
        inputs: &mut Vec<PendingInput>,
    ) -> Result<Vec<PendingInput>, StoreError> {
        let hot = match self.hot.take() {
            Some(hot) => hot,
            None => self.context.connect().await?,
        };
        let mut result = self.settle(&hot, inputs, true).await;
        // A failed expectation means stale cached rows or a stale admission version. The failed
        // commit has evicted the cached rows, so the second try reads under lock; the third also
        // claims nothing, so it depends on no admission version.
        for hand_on in [true, false] {
            let Err(error) = &result else { break };
            if !error.is_expectation() || hot.rollback().await.is_err() {
                break;
            }
            if error.is_stale_admission() {
                self.context.refresh_admission().await?;
            }
            result = self.settle(&hot, inputs, hand_on).await;
        }
        // A connection whose rollback fails is dropped, as its transaction may still be open.
        if result.is_err() && !hot.is_closed() && hot.rollback().await.is_err() {
            return result;
        }
        self.hot = Some(hot);
        result
    }

    #[expect(clippy::too_many_lines, reason = "one transaction in its order")]
    async fn settle(
        &self,
        hot: &Pipeline,
        inputs: &mut Vec<PendingInput>,
        hand_on: bool,
    ) -> Result<Vec<PendingInput>, StoreError> {
        // 1. Slots and quota are reserved before the transaction, so that no other loop can use
        //    them. The queue is scanned only in lanes that the services admit, counting the
        //    attempts that these inputs end.
        let children = if hand_on {
            children_of(inputs)
        } else {
            BTreeMap::new()
        };
        let mut reservation = self.context.registry.reserve(&children);
        let mut capacity = self.context.admission.reserve();
        let mut demand = reservation.demand();
        self.context
            .admission
            .admit(&mut demand, &leases_of(inputs));
        // 2. The first round trip: locks, reads and the clock; none if the attempt cache has all
        //    rows.
        let (read, guessed) = self.read(hot, inputs, &demand).await?;
        let past = match missing(inputs, &read) {
            missing if missing.is_empty() => HashMap::default(),
            missing => hot.past_outcomes(&missing).await?.into_iter().collect(),
        };
        let plans = self.plans(&read).await?;
        // 3. The decision.
        let decision = Decision::new(&read, &plans).decide(inputs, &past);
        let Decision {
            mut changes,
            acks,
            cancelled,
            refused,
            evaluations,
            changed_tasks,
            calls,
            failed_probes,
            throttles,
            resumed_lanes,
            expiring,
            ..
        } = decision;
        let admission = &self.context.admission;
        delay_failed_probes(&mut changes, &failed_probes, |lane| {
            admission.past_probing(lane)
        });
        // 4. Claims. Sizes come first, as they decide which workers take a step. So do the pauses
        //    and the freed quota: `allocate` must not start a step on a service that has just asked
        //    for a pause, and may reuse the quota of the attempts that end here.
        weigh(&self.context.payloads, hot, &mut changes, &plans).await?;
        changes.throttles = self.context.admission.throttle(&throttles);
        capacity.frees(&changes);
        let Allocation {
            claimed,
            mut wanted,
        } = allocate(
            &mut changes,
            &read.candidates,
            &plans,
            &mut reservation,
            &mut capacity,
            read.now,
        );
        let mut unserved = unserved_lanes(&changes, &plans);
        unserved.extend(resumed_lanes);
        changes.notify = self.context.membership.payload(
            !unserved.is_empty(),
            !cancelled.is_empty(),
            !changed_tasks.is_empty(),
            !changes.throttles.is_empty(),
        );
        // 5. The second round trip: all writes and the `COMMIT`. Nothing leaves this server before
        //    it.
        let freed: Vec<Uuid> = acks.iter().map(|(worker_id, ..)| *worker_id).collect();
        let undelivered = if changes.is_empty() {
            hot.rollback().await?;
            Vec::new()
        } else {
            let mut known = self.context.payloads.lookup(&mut wanted, &changes);
            let committed = self
                .commit(hot, &mut changes, &wanted, &read, guessed)
                .await;
            let mut applied = match committed {
                Ok(applied) => applied,
                Err(error) => {
                    // A commit of uncertain outcome may have made the claims that the reservation
                    // lists.
                    self.own.commit_failed(&error, &reservation, capacity);
                    return Err(error);
                }
            };
            self.context.events.written();
            self.context
                .payloads
                .update(&mut known, &mut applied, &changes);
            let now = applied.now.unwrap_or(read.now);
            self.context.committed(
                Loop::Settle,
                inputs.len(),
                applied.took,
                &changes,
                &plans,
                now,
            );
            // `forget` after `keep`: the cached rows lack the effects of a command or a planner,
            // such as a pause or new settings.
            self.context.attempts.update(&changes, now);
            self.context.attempts.evict(
                ordered(inputs).chain(changes.planned.iter().map(|planned| planned.task_id)),
            );
            // Before `deliver`: the settling of an answer releases only quota that is counted as
            // running.
            self.context
                .registry
                .mark_active(capacity.commit(true, &lost(&changes, &applied.claimed)));
            self.context.admission.count_calls(&calls, now);
            let mut claimed: Vec<Claimed> = claimed.into_iter().chain(applied.claimed).collect();
            // The deadlines were computed from `read.now`, which may be before the transaction's
            // own time.
            let late = now.duration_since(read.now).unwrap_or_default();
            claimed
                .iter_mut()
                .for_each(|claim| claim.deadline_at += late);
            applied
                .next_retry
                .into_iter()
                .for_each(|after| self.context.retry_timer.fire_in(after));
            // Assignments leave only now, after the commit.
            let undelivered = deliver(
                assignment::assemble(claimed, &known, &plans, now),
                reservation,
            );
            undelivered
                .into_iter()
                .map(|(lease, worker_id)| Input::undelivered(lease, worker_id).into())
                .collect()
        };
        // 6. Replies. Each acknowledgement also frees a slot, so the scan is requested last, when
        //    slots and lanes are up to date.
        self.tell(inputs, acks, cancelled, refused, evaluations);
        expiring
            .into_iter()
            .for_each(|task_id| self.own.expire(task_id));
        self.context.watchers.notify(changed_tasks);
        self.context
            .registry
            .mark_active(self.context.admission.admitted(unserved));
        self.context.registry.slots_freed(freed);
        Ok(undelivered)
    }

    /// Commits. Cached rows are checked by the writes themselves (`expected`), and evicted if the
    /// commit fails.
    async fn commit(
        &self,
        hot: &Pipeline,
        changes: &mut Changes,
        wanted: &WantedInputs,
        read: &SettleRead,
        guessed: bool,
    ) -> Result<Applied, StoreError> {
        if !guessed {
            return hot.commit(changes, wanted, read.now).await;
        }
        expect(changes, read);
        let committed = hot.commit_at_once(changes, wanted).await;
        if committed.is_err() {
            self.context
                .attempts
                .evict(read.tasks.iter().map(|task| task.task_id));
        }
        committed
    }

    /// Returns the input rows, and whether they come from the attempt cache. The cache is used only
    /// if it has all rows and no lane has to be scanned: then no queued step competes for the freed
    /// slots.
    async fn read(
        &self,
        hot: &Pipeline,
        inputs: &[PendingInput],
        demand: &[LaneDemand],
    ) -> Result<(SettleRead, bool), StoreError> {
        if demand.is_empty()
            && let Some(believed) = self.guess(inputs)
        {
            return Ok((believed, true));
        }
        let (leases, tasks, ordered) = keys_of(inputs);
        Ok((
            hot.begin_settle(&leases, &tasks, &ordered, demand).await?,
            false,
        ))
    }

    /// Returns the rows from the cache if every input is a success of an attempt that this server
    /// started.
    fn guess(&self, inputs: &[PendingInput]) -> Option<SettleRead> {
        let attempt = |input: &PendingInput| match &**input {
            Input::Result {
                lease,
                outcome: Outcome::Succeeded(_),
                worker_id,
                ..
            } => Some((*lease, *worker_id)),
            _ => None,
        };
        let mut attempts: Vec<(Lease, Uuid)> = inputs.iter().map(attempt).collect::<Option<_>>()?;
        attempts.sort_unstable_by_key(|(lease, _)| (lease.task_id, lease.step));
        attempts.dedup_by_key(|(lease, _)| (lease.task_id, lease.step));
        self.context.attempts.read(&attempts)
    }

    async fn plans(&self, read: &SettleRead) -> Result<Plans, StoreError> {
        let mut plans = self
            .context
            .templates
            .readable(read.candidates.iter().map(|c| c.template_id))
            .await?;
        for id in read
            .tasks
            .iter()
            .map(|t| t.template_id)
            .collect::<HashSet<_>>()
        {
            plans.insert(id, self.context.templates.plan(id).await?);
        }
        Ok(plans)
    }

    /// Sends acknowledgements, cancellations and replies; called only after the commit. Inputs that
    /// lack a verdict are evaluated and queued again.
    fn tell(
        &self,
        inputs: &mut Vec<PendingInput>,
        acks: Vec<(Uuid, Lease, bool)>,
        cancelled: Vec<(Lease, CancelReason)>,
        mut refused: HashMap<usize, OrderError>,
        mut evaluations: HashMap<usize, EvaluationRequest>,
    ) {
        for (worker_id, lease, accepted) in acks {
            if !accepted {
                self.context.metrics.results_stale.add(1);
            }
            self.context
                .registry
                .send(worker_id, ToWorker::Ack { lease, accepted });
        }
        for (lease, reason) in cancelled {
            self.context.registry.cancel(lease, reason);
        }
        for (i, pending) in inputs.drain(..).enumerate() {
            if let Some(ask) = evaluations.remove(&i) {
                self.own.evaluate_aside(pending, ask);
                continue;
            }
            if let Input::Order {
                task_id,
                order,
                reply,
                ..
            } = pending.input
            {
                let answer = refused.remove(&i).map_or(Ok(()), Err);
                if answer.is_ok() && order == Order::Cancel {
                    // Includes leases that an earlier try ended in a commit of uncertain outcome.
                    for lease in self.context.registry.leases_of(task_id) {
                        self.context
                            .registry
                            .cancel(lease, CancelReason::TaskCancelled);
                    }
                }
                let _ = reply.send(answer);
            }
        }
    }
}

/// Splits a batch in two; the first half is settled next.
fn halve(work: &mut Vec<Vec<PendingInput>>, mut inputs: Vec<PendingInput>) {
    let half = inputs.split_off(inputs.len() / 2);
    work.push(half);
    work.push(inputs);
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
