//! Takes everything that ends an attempt or a task, applies it, and hands on what becomes ready: one transaction per
//! batch. While one is in flight the next batch gathers, so a batch is one input when idle and hundreds under load.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    assignment::{self, Assignment},
    claims::{self, Plans},
    documents::Known,
    gates::Passes,
    hub::{CancelReason, Reservation, ToWorker},
    metrics::Loop,
    shared::Shared,
    sizes,
};
use crate::{
    domain::{
        attempt::Outcome,
        lease::Lease,
        order::{Order, OrderError},
    },
    store::{
        StoreError,
        changes::{Changes, Claimed, WantedInputs},
        counts::Collision,
        hot::{Applied, Hot, LaneDemand, SettleRead},
    },
};

mod decision;
pub mod follow;
mod inputs;
mod orders;
#[cfg(test)]
mod tests;

use decision::Decision;
pub use inputs::Input;
use inputs::{children_of, keys_of, leases_of, missing, one_order_a_task, ordered, results};

/// The most inputs of one transaction.
const MAX_BATCH: usize = 512;
/// The most inputs that wait for one.
const MAX_QUEUE: usize = 4_096;
/// The most bytes of results that wait or are in a transaction, in KiB.
const MAX_QUEUE_KIB: usize = 64 << 10;
/// How soon a passed deadline is looked at again when the database's clock did not agree.
pub const DEADLINE_RECHECK: Duration = Duration::from_millis(250);
/// Pauses between two tries while the database is away.
const RETRY_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How often a batch may collide with other transactions before the input that does is looked for.
const COLLISIONS: usize = 5;
/// How long an input is set aside whose rows somebody else keeps locked.
const ASIDE: Duration = Duration::from_secs(3);

/// A place in the queue, held until the input is settled.
type Weighed = (Input, OwnedSemaphorePermit);

/// The way into the settler.
#[derive(Clone)]
pub struct SettleQueue {
    sender: mpsc::Sender<Weighed>,
    weight: Arc<Semaphore>,
    doubts: mpsc::UnboundedSender<Input>,
}

/// The settler is gone: the server ends.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the server is shutting down")]
pub struct Closed;

impl SettleQueue {
    /// Waits for a place; a caller that reads from a stream thereby stops reading.
    pub async fn push(&self, input: Input) -> Result<(), Closed> {
        let kib = match &input {
            Input::Result { outcome, .. } => 1 + outcome.size() / 1024,
            Input::Order { order, by, reason, .. } => 1 + (order.size() + by.len() + reason.len()) / 1024,
            Input::Gone { .. } | Input::Deadline { .. } | Input::Expire { .. } | Input::TooLarge(_) => 1,
        };
        let permits = u32::try_from(kib.min(MAX_QUEUE_KIB)).unwrap_or(u32::MAX);
        let place = Arc::clone(&self.weight).acquire_many_owned(permits).await.map_err(|_| Closed)?;
        self.sender.send((input, place)).await.map_err(|_| Closed)
    }

    /// Gives back what a commit of unknown outcome may have claimed: if it did take place, the database holds leases
    /// that no worker knows of, and a worker that lives would keep them for ever. A claim that was not made is not found.
    ///
    /// Never waits, so that a caller whose database is away can go on and say so. Not bounded by a number, but by what it
    /// holds: at most the claims of the one transaction in which a loop lost its connection, as it gets no further
    /// without a new one.
    pub fn doubt(&self, reservation: &Reservation) {
        for (lease, worker_id) in reservation.promised() {
            let outcome = Outcome::Undelivered;
            let _ = self.doubts.send(Input::Gone { lease: *lease, worker_id: *worker_id, outcome });
        }
    }

    /// The deadline of a task has passed. Never waits; there are no more of these than there are running attempts.
    fn expire(&self, task_id: Uuid) {
        let _ = self.doubts.send(Input::Expire { task_id });
    }

    /// A commit failed. If it may have taken place after all, what it may have claimed is given back, and counts as used
    /// until then.
    pub fn uncommitted(&self, error: &StoreError, reservation: &Reservation, passes: Passes) {
        if !error.is_expectation() {
            self.doubt(reservation);
            passes.commit(false, &HashSet::new());
        }
    }
}

/// The settling loop.
pub struct Settler {
    shared: Shared,
    queue: mpsc::Receiver<Weighed>,
    doubts: mpsc::UnboundedReceiver<Input>,
    /// For the doubts of this loop's own.
    own: SettleQueue,
    hot: Option<Hot>,
}

impl Settler {
    pub fn new(shared: Shared) -> (Self, SettleQueue) {
        let (sender, queue) = mpsc::channel(MAX_QUEUE);
        let weight = Arc::new(Semaphore::new(MAX_QUEUE_KIB));
        let (doubt, doubts) = mpsc::unbounded_channel();
        let own = SettleQueue { sender, weight, doubts: doubt };
        (Self { shared, queue, doubts, own: own.clone(), hot: None }, own)
    }

    /// Runs until `shutdown`, then takes what is in the queue and ends.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        let mut doubts = Vec::new();
        loop {
            tokio::select! {
                biased;
                _ = self.doubts.recv_many(&mut doubts, MAX_BATCH) => {}
                n = self.queue.recv_many(&mut batch, MAX_BATCH) => if n == 0 { return },
                () = shutdown.cancelled() => {
                    self.queue.close();
                    if self.queue.recv_many(&mut batch, MAX_BATCH).await == 0 {
                        return;
                    }
                }
            }
            let (mut inputs, _places): (Vec<Input>, Vec<OwnedSemaphorePermit>) = batch.drain(..).unzip();
            inputs.append(&mut doubts);
            self.settle_all(inputs, &shutdown).await;
        }
    }

    /// Settles every input, however long the database stays away. An input that the database refuses for good is found
    /// by halving, so that it cannot hold up the others.
    async fn settle_all(&mut self, inputs: Vec<Input>, shutdown: &CancellationToken) {
        let mut work = one_order_a_task(inputs);
        let (mut pause, mut collisions) = (RETRY_PAUSE.0, 0);
        while let Some(mut inputs) = work.pop() {
            match self.run_once(&mut inputs).await {
                Ok(undelivered) => {
                    (pause, collisions) = (RETRY_PAUSE.0, 0);
                    self.shared.health.database(true);
                    if !undelivered.is_empty() {
                        work.push(undelivered);
                    }
                }
                Err(error) if self.is_stubborn(&error, &mut collisions) => {
                    if inputs.len() > 1 {
                        let half = inputs.split_off(inputs.len() / 2);
                        work.push(half);
                        work.push(inputs);
                    } else {
                        tracing::warn!(%error, "somebody keeps a task's rows locked; what is to be stored there waits");
                        inputs.into_iter().for_each(|input| self.set_aside(input));
                        collisions = 0;
                    }
                }
                Err(error) if error.is_transient() => {
                    tracing::debug!(%error, inputs = inputs.len(), "settling failed, trying again");
                    self.hot.take_if(|hot| hot.is_closed());
                    if shutdown.is_cancelled() && self.hot.is_none() {
                        return;
                    }
                    work.push(inputs);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_PAUSE.1);
                }
                Err(error) if inputs.len() > 1 => {
                    tracing::warn!(%error, inputs = inputs.len(), "settling failed, splitting the batch");
                    let half = inputs.split_off(inputs.len() / 2);
                    work.push(half);
                    work.push(inputs);
                }
                Err(error) => {
                    tracing::error!(%error, "an input cannot be settled and is dropped; its attempt ends at its deadline");
                    match inputs.pop() {
                        Some(Input::Order { reply, .. }) => {
                            let _ = reply.send(Err(OrderError::Failed(error.to_string())));
                        }
                        // Nobody may wait for an acknowledgement that never comes: the worker says it again, perhaps to
                        // a server that can settle it.
                        Some(Input::Result { worker_id, .. }) => drop(self.shared.hub.remove(worker_id)),
                        _ => {}
                    }
                }
            }
        }
    }

    /// Counts a collision, and says whether it is one that another try would only meet again: the others shall not wait
    /// for the input that has it.
    fn is_stubborn(&self, error: &StoreError, collisions: &mut usize) -> bool {
        self.shared.db.counts().note(error);
        let Some(kind) = error.collision() else { return false };
        *collisions += 1;
        kind == Collision::Lock || *collisions > COLLISIONS
    }

    /// Has an input come again later. Those that wait so are few: each has cost the loop a time-out.
    fn set_aside(&self, input: Input) {
        let queue = self.own.clone();
        tokio::spawn(async move {
            tokio::time::sleep(ASIDE).await;
            let _ = queue.push(input).await;
        });
    }

    /// One transaction. On success `inputs` is empty and what comes back is to be settled next: attempts whose worker
    /// left before the assignment was sent. On failure `inputs` is as it was.
    pub async fn run_once(&mut self, inputs: &mut Vec<Input>) -> Result<Vec<Input>, StoreError> {
        let hot = match self.hot.take() {
            Some(hot) => hot,
            None => self.shared.connect().await?,
        };
        let mut result = self.settle(&hot, inputs, true).await;
        // A guess that was wrong is forgotten now, and the second try asks. The last one relies on nothing but its locks.
        for hand_on in [true, false] {
            let Err(error) = &result else { break };
            if !error.is_expectation() || hot.rollback().await.is_err() {
                break;
            }
            if error.is_gate() {
                self.shared.refresh_gates().await?;
            }
            result = self.settle(&hot, inputs, hand_on).await;
        }
        if result.is_err() && !hot.is_closed() && hot.rollback().await.is_err() {
            return result;
        }
        self.hot = Some(hot);
        result
    }

    async fn settle(&self, hot: &Hot, inputs: &mut Vec<Input>, hand_on: bool) -> Result<Vec<Input>, StoreError> {
        let children = if hand_on { children_of(inputs) } else { BTreeMap::new() };
        let mut reservation = self.shared.hub.reserve(&children);
        let mut passes = self.shared.gates.passes();
        let mut demand = reservation.demand();
        self.shared.gates.admit(&mut demand, &leases_of(inputs));
        let (read, guessed) = self.read(hot, inputs, &demand).await?;
        let past = match missing(inputs, &read) {
            missing if missing.is_empty() => HashMap::new(),
            missing => hot.past_outcomes(&missing).await?.into_iter().collect(),
        };
        let plans = self.plans(&read).await?;
        let documents = self.documents(hot, inputs, &read, &plans).await?;
        let past_probing = |lane| self.shared.gates.past_probing(lane);
        let mut decision = Decision::new(&read, &plans, &documents, &past_probing);
        decision.take_orders(inputs);
        for input in inputs.iter() {
            decision.take(input, &past);
        }
        let Decision { mut changes, acks, cancelled, refused, touched, calls, pauses, woken, expiring, .. } =
            decision.finish();
        sizes::weigh(&self.shared.documents, hot, &mut changes, &plans).await?;
        changes.pauses = self.shared.gates.pause(&pauses);
        passes.frees(&changes);
        let (claimed, mut wanted) =
            claims::grant(&mut changes, &read.candidates, &plans, &mut reservation, &mut passes, read.now);
        let mut unserved = lanes_left(&changes, &plans);
        unserved.extend(woken);
        changes.notify = self.shared.peers.news(
            !unserved.is_empty(),
            !cancelled.is_empty(),
            !touched.is_empty(),
            !changes.pauses.is_empty(),
        );
        let freed: Vec<Uuid> = acks.iter().map(|(worker_id, ..)| *worker_id).collect();
        let undelivered = if changes.is_empty() {
            hot.rollback().await?;
            Vec::new()
        } else {
            let mut known = self.shared.documents.know(&mut wanted, &changes);
            let committed = self.commit(hot, &mut changes, &wanted, &read, guessed).await;
            let mut applied = match committed {
                Ok(applied) => applied,
                Err(error) => {
                    self.own.uncommitted(&error, &reservation, passes);
                    return Err(error);
                }
            };
            self.shared.events.written();
            self.shared.documents.keep(&mut known, &mut applied, &changes);
            let now = applied.now.unwrap_or(read.now);
            self.shared.committed(Loop::Settle, inputs.len(), applied.took, &changes, &plans, now);
            self.shared.held.keep(&changes, now);
            self.shared.held.forget(ordered(inputs).chain(changes.planned.iter().map(|planned| planned.task_id)));
            self.shared.hub.steps_wait(passes.commit(true, &claims::lost(&changes, &applied.claimed)));
            self.shared.gates.count(&calls, now);
            let mut claimed: Vec<Claimed> = claimed.into_iter().chain(applied.claimed).collect();
            // Counted from the time that was known before.
            let late = now.duration_since(read.now).unwrap_or_default();
            claimed.iter_mut().for_each(|claim| claim.deadline_at += late);
            applied.next_retry.into_iter().for_each(|after| self.shared.hub.retry_in(after));
            deliver(assignment::assemble(claimed, &known, &plans, now), reservation)
        };
        self.tell(inputs, acks, cancelled, refused);
        expiring.into_iter().for_each(|task_id| self.own.expire(task_id));
        self.shared.watchers.tell(touched);
        self.shared.hub.steps_wait(self.shared.gates.open(unserved));
        self.shared.hub.slots_freed(freed);
        Ok(undelivered)
    }

    /// What was only believed is held against the rows in the same statements, and forgotten if it was wrong.
    async fn commit(
        &self,
        hot: &Hot,
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
            self.shared.held.forget(read.tasks.iter().map(|task| task.task_id));
        }
        committed
    }

    /// What the decision rests on, and whether it is only believed: nobody is asked if all is known here and nobody else
    /// could have a better right to the slots.
    async fn read(&self, hot: &Hot, inputs: &[Input], demand: &[LaneDemand]) -> Result<(SettleRead, bool), StoreError> {
        if demand.is_empty()
            && let Some(believed) = self.guess(inputs)
        {
            return Ok((believed, true));
        }
        let (leases, tasks, ordered) = keys_of(inputs);
        Ok((hot.begin_settle(&leases, &tasks, &ordered, demand).await?, false))
    }

    /// What conditions of these tasks are judged by, and what planners add to. Nothing for those that have neither.
    async fn documents(
        &self,
        hot: &Hot,
        inputs: &[Input],
        read: &SettleRead,
        plans: &Plans,
    ) -> Result<Known, StoreError> {
        let mut wanted = WantedInputs::default();
        let planned: HashSet<Uuid> =
            results(inputs).filter(|lease| lease.step == 0).map(|lease| lease.task_id).collect();
        for task in &read.tasks {
            let Some(plan) = plans.get(&task.template_id) else { continue };
            if plan.is_conditional() || plan.is_planner(0) && planned.contains(&task.task_id) {
                wanted.tasks.push((task.task_id, task.revision));
            }
            if plan.is_conditional() {
                let done = (0..plan.graph.len()).filter_map(|step| u16::try_from(step).ok());
                let done = done.filter(|step| task.progress.done.contains(*step));
                wanted.results.extend(done.map(|step| (task.task_id, step.cast_signed())));
            }
        }
        let mut known = self.shared.documents.know(&mut wanted, &Changes::default());
        if !wanted.tasks.is_empty() || !wanted.results.is_empty() {
            let read = hot.documents(&wanted).await?;
            known.tasks.extend(read.task_inputs.into_iter().map(|input| (input.task_id, Arc::new(input))));
            known.results.extend(read.results.into_iter().map(|(task, step, json)| ((task, step), Arc::from(json))));
        }
        Ok(known)
    }

    /// What would be read for these inputs, if they are results of attempts that this server handed out itself.
    fn guess(&self, inputs: &[Input]) -> Option<SettleRead> {
        let attempt = |input: &Input| match input {
            Input::Result { lease, outcome: Outcome::Succeeded(_), worker_id, .. } => Some((*lease, *worker_id)),
            _ => None,
        };
        let mut attempts: Vec<(Lease, Uuid)> = inputs.iter().map(attempt).collect::<Option<_>>()?;
        attempts.sort_unstable_by_key(|(lease, _)| (lease.task_id, lease.step));
        attempts.dedup_by_key(|(lease, _)| (lease.task_id, lease.step));
        self.shared.held.guess(&attempts)
    }

    async fn plans(&self, read: &SettleRead) -> Result<Plans, StoreError> {
        let mut plans = self.shared.catalog.readable(read.candidates.iter().map(|c| c.template_id)).await?;
        for id in read.tasks.iter().map(|t| t.template_id).collect::<HashSet<_>>() {
            plans.insert(id, self.shared.catalog.plan(id).await?);
        }
        Ok(plans)
    }

    /// After the commit, and never before: acknowledgements, cancels and replies.
    fn tell(
        &self,
        inputs: &mut Vec<Input>,
        acks: Vec<(Uuid, Lease, bool)>,
        cancelled: Vec<(Lease, CancelReason)>,
        mut refused: HashMap<usize, OrderError>,
    ) {
        for (worker_id, lease, accepted) in acks {
            if !accepted {
                self.shared.metrics.results_stale.add(1);
            }
            self.shared.hub.send(worker_id, ToWorker::Ack { lease, accepted });
        }
        for (lease, reason) in cancelled {
            self.shared.hub.cancel(lease, reason);
        }
        for (i, input) in inputs.drain(..).enumerate() {
            if let Input::Order { task_id, order, reply, .. } = input {
                let answer = refused.remove(&i).map_or(Ok(()), Err);
                if answer.is_ok() && order == Order::Cancel {
                    // Also those that an earlier try ended whose commit was not confirmed.
                    for lease in self.shared.hub.leases_of(task_id) {
                        self.shared.hub.cancel(lease, CancelReason::TaskCancelled);
                    }
                }
                let _ = reply.send(answer);
            }
        }
    }
}

/// Lets the writes check what the decision rests on.
fn expect(changes: &mut Changes, read: &SettleRead) {
    for update in &mut changes.tasks {
        let before = read.tasks.iter().find(|task| task.task_id == update.task_id);
        update.expected = before.map(|task| task.progress.clone());
    }
}

/// Sends committed claims to their workers. Those whose worker is gone come back, to be given to others.
pub fn deliver(assignments: Vec<Assignment>, mut reservation: Reservation) -> Vec<Input> {
    assignments
        .into_iter()
        .filter_map(|a| {
            let (lease, worker_id) = (a.lease, a.worker_id);
            let undelivered = Input::Gone { lease, worker_id, outcome: Outcome::Undelivered };
            (!reservation.deliver(a)).then_some(undelivered)
        })
        .collect()
}

/// The lanes of the steps that this transaction leaves ready and without a worker.
fn lanes_left(changes: &Changes, plans: &Plans) -> HashSet<i32> {
    let new = changes.new_live.iter().filter(|live| live.grant.is_none() && live.is_due()).map(|live| live.lane_id);
    let given_back = changes.given_back.iter().filter_map(|back| {
        let plan = plans.get(&back.attempt.template_id)?;
        Some(plan.lane(u16::try_from(back.attempt.step).ok()?))
    });
    new.chain(given_back).collect()
}
