//! Takes everything that ends an attempt or a task, applies it, and hands on what becomes ready: one transaction per
//! batch. While one is in flight the next batch gathers, so a batch is one input when idle and hundreds under load.
//!
//! Nothing is parsed or evaluated in here: results, planners' answers and conditions were judged before (`queue`, `judging`).

use std::{collections::BTreeMap, time::Duration};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    assignment::{self, Assignment},
    claims::{self, Plans},
    hub::{CancelReason, Reservation, ToWorker},
    metrics::Loop,
    shared::Shared,
    sizes,
};
use crate::engine::hash::{HashMap, HashSet};
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
mod failing;
pub mod follow;
mod inputs;
mod judging;
mod orders;
mod queue;
#[cfg(test)]
mod tests;

use decision::Decision;
use failing::Failing;
pub use inputs::{Input, Pending};
use inputs::{children_of, keys_of, leases_of, missing, one_order_a_task, ordered};
use judging::Ask;
pub use queue::{Closed, SettleQueue};

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
/// How often an input is judged. Each time but the first, another input of its task was settled while it was judged.
const MAX_ROUNDS: usize = 64;
/// How long the end of the server waits for what is being judged.
const LAST_VERDICTS: Duration = Duration::from_secs(3);

/// The settling loop.
pub struct Settler {
    shared: Shared,
    queue: mpsc::Receiver<Pending>,
    /// What was judged, and doubts.
    again: mpsc::UnboundedReceiver<Pending>,
    /// For what this loop finds out itself.
    own: SettleQueue,
    hot: Option<Hot>,
}

impl Settler {
    pub fn new(shared: Shared) -> (Self, SettleQueue) {
        let (sender, queue) = mpsc::channel(MAX_QUEUE);
        let (come, again) = mpsc::unbounded_channel();
        let own = SettleQueue::new(shared.clone(), sender, come);
        (
            Self {
                shared,
                queue,
                again,
                own: own.clone(),
                hot: None,
            },
            own,
        )
    }

    /// Runs until `shutdown`, then takes what is in the queue and ends.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let (mut batch, mut judged) = (Vec::with_capacity(MAX_BATCH), Vec::new());
        let mut last_verdicts = None;
        loop {
            tokio::select! {
                biased;
                _ = self.again.recv_many(&mut judged, MAX_BATCH) => {}
                n = self.queue.recv_many(&mut batch, MAX_BATCH) => if n == 0 { return },
                () = shutdown.cancelled() => {
                    self.queue.close();
                    let until = *last_verdicts.get_or_insert_with(|| Instant::now() + LAST_VERDICTS);
                    if self.queue.recv_many(&mut batch, MAX_BATCH).await == 0 && !self.verdict(&mut batch, until).await {
                        return;
                    }
                }
            }
            batch.append(&mut judged);
            self.shared.pulses.beat("settle");
            self.settle_all(std::mem::take(&mut batch), &shutdown).await;
            self.shared.pulses.rest("settle");
        }
    }

    /// Waits for what is being judged.
    async fn verdict(&mut self, batch: &mut Vec<Pending>, until: Instant) -> bool {
        if !self.own.judges() {
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

    /// Settles every input, however long the database stays away. An input that the database refuses for good is found
    /// by halving, so that it cannot hold up the others.
    async fn settle_all(&mut self, inputs: Vec<Pending>, shutdown: &CancellationToken) {
        let mut work = one_order_a_task(inputs);
        let (mut pause, mut collisions, mut failing) = (RETRY_PAUSE.0, 0, Failing::default());
        while let Some(mut inputs) = work.pop() {
            match self.run_once(&mut inputs).await {
                Ok(undelivered) => {
                    (pause, collisions) = (RETRY_PAUSE.0, 0);
                    failing.passed();
                    self.shared.pulses.beat("settle");
                    self.shared.health.database(true);
                    if !undelivered.is_empty() {
                        work.push(undelivered);
                    }
                }
                Err(error) if self.is_stubborn(&error, &mut collisions) => {
                    if inputs.len() > 1 {
                        halve(&mut work, inputs);
                    } else {
                        tracing::warn!(%error, "somebody keeps a task's rows locked; what is to be stored there waits");
                        inputs.into_iter().for_each(|input| self.set_aside(input));
                        collisions = 0;
                    }
                }
                Err(error) if error.is_transient() && !failing.again(&error, inputs.len()) => {
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
                    self.hot.take_if(|hot| hot.is_closed());
                    halve(&mut work, inputs);
                }
                Err(error) => {
                    self.hot.take_if(|hot| hot.is_closed());
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

    /// Ends an input that cannot be settled. What a worker answered ends its step with an error, which is what comes back: the
    /// worker's other steps keep their stream.
    fn end(&self, mut pending: Pending, error: &StoreError) -> Option<Pending> {
        if failing::replace(&mut pending, error) {
            tracing::error!(%error, "an answer cannot be settled; its step ends with an error");
            return Some(pending);
        }
        match pending.input {
            Input::Order { reply, .. } => {
                let _ = reply.send(Err(OrderError::Failed(error.to_string())));
            }
            // The error in its place was refused, too. No worker may wait for an acknowledgement that never comes: it says it
            // again, perhaps to a server that can settle it.
            Input::Result { worker_id, .. } => drop(self.shared.hub.remove(worker_id)),
            _ => {}
        }
        tracing::error!(%error, "an input cannot be settled and is dropped; its attempt ends at its deadline");
        None
    }

    /// Counts a collision, and says whether it is one that another try would only meet again: the others shall not wait
    /// for the input that has it.
    fn is_stubborn(&self, error: &StoreError, collisions: &mut usize) -> bool {
        self.shared.db.counts().note(error);
        let Some(kind) = error.collision() else {
            return false;
        };
        *collisions += 1;
        kind == Collision::Lock || *collisions > COLLISIONS
    }

    /// Has an input come again later. Those that wait so are few: each has cost the loop a time-out.
    fn set_aside(&self, pending: Pending) {
        let queue = self.own.clone();
        tokio::spawn(async move {
            tokio::time::sleep(ASIDE).await;
            queue.come(pending);
        });
    }

    /// One transaction. On success `inputs` is empty and what comes back is to be settled next: attempts whose worker
    /// left before the assignment was sent. On failure `inputs` is as it was.
    pub async fn run_once(
        &mut self,
        inputs: &mut Vec<Pending>,
    ) -> Result<Vec<Pending>, StoreError> {
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

    #[expect(clippy::too_many_lines, reason = "one transaction in its order")]
    async fn settle(
        &self,
        hot: &Hot,
        inputs: &mut Vec<Pending>,
        hand_on: bool,
    ) -> Result<Vec<Pending>, StoreError> {
        let children = if hand_on {
            children_of(inputs)
        } else {
            BTreeMap::new()
        };
        let mut reservation = self.shared.hub.reserve(&children);
        let mut passes = self.shared.gates.passes();
        let mut demand = reservation.demand();
        self.shared.gates.admit(&mut demand, &leases_of(inputs));
        let (read, guessed) = self.read(hot, inputs, &demand).await?;
        let past = match missing(inputs, &read) {
            missing if missing.is_empty() => HashMap::default(),
            missing => hot.past_outcomes(&missing).await?.into_iter().collect(),
        };
        let plans = self.plans(&read).await?;
        let past_probing = |lane| self.shared.gates.past_probing(lane);
        let mut decision = Decision::new(&read, &plans, &past_probing);
        decision.take_orders(inputs);
        for (i, input) in inputs.iter().enumerate() {
            decision.take(i, input, &past);
        }
        let Decision {
            mut changes,
            acks,
            cancelled,
            refused,
            asks,
            touched,
            calls,
            pauses,
            woken,
            expiring,
            ..
        } = decision.finish();
        sizes::weigh(&self.shared.documents, hot, &mut changes, &plans).await?;
        changes.pauses = self.shared.gates.pause(&pauses);
        passes.frees(&changes);
        let (claimed, mut wanted) = claims::grant(
            &mut changes,
            &read.candidates,
            &plans,
            &mut reservation,
            &mut passes,
            read.now,
        );
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
            let committed = self
                .commit(hot, &mut changes, &wanted, &read, guessed)
                .await;
            let mut applied = match committed {
                Ok(applied) => applied,
                Err(error) => {
                    self.own.uncommitted(&error, &reservation, passes);
                    return Err(error);
                }
            };
            self.shared.events.written();
            self.shared
                .documents
                .keep(&mut known, &mut applied, &changes);
            let now = applied.now.unwrap_or(read.now);
            self.shared.committed(
                Loop::Settle,
                inputs.len(),
                applied.took,
                &changes,
                &plans,
                now,
            );
            self.shared.held.keep(&changes, now);
            self.shared.held.forget(
                ordered(inputs).chain(changes.planned.iter().map(|planned| planned.task_id)),
            );
            self.shared
                .hub
                .steps_wait(passes.commit(true, &claims::lost(&changes, &applied.claimed)));
            self.shared.gates.count(&calls, now);
            let mut claimed: Vec<Claimed> = claimed.into_iter().chain(applied.claimed).collect();
            // Counted from the time that was known before.
            let late = now.duration_since(read.now).unwrap_or_default();
            claimed
                .iter_mut()
                .for_each(|claim| claim.deadline_at += late);
            applied
                .next_retry
                .into_iter()
                .for_each(|after| self.shared.hub.retry_in(after));
            let undelivered = deliver(
                assignment::assemble(claimed, &known, &plans, now),
                reservation,
            );
            undelivered.into_iter().map(Pending::from).collect()
        };
        self.tell(inputs, acks, cancelled, refused, asks);
        expiring
            .into_iter()
            .for_each(|task_id| self.own.expire(task_id));
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
            self.shared
                .held
                .forget(read.tasks.iter().map(|task| task.task_id));
        }
        committed
    }

    /// What the decision rests on, and whether it is only believed: nobody is asked if all is known here and nobody else
    /// could have a better right to the slots.
    async fn read(
        &self,
        hot: &Hot,
        inputs: &[Pending],
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

    /// What would be read for these inputs, if they are results of attempts that this server handed out itself.
    fn guess(&self, inputs: &[Pending]) -> Option<SettleRead> {
        let attempt = |input: &Pending| match &**input {
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
        self.shared.held.guess(&attempts)
    }

    async fn plans(&self, read: &SettleRead) -> Result<Plans, StoreError> {
        let mut plans = self
            .shared
            .catalog
            .readable(read.candidates.iter().map(|c| c.template_id))
            .await?;
        for id in read
            .tasks
            .iter()
            .map(|t| t.template_id)
            .collect::<HashSet<_>>()
        {
            plans.insert(id, self.shared.catalog.plan(id).await?);
        }
        Ok(plans)
    }

    /// After the commit, and never before: acknowledgements, cancels and replies. What lacks a verdict gets one and comes again.
    fn tell(
        &self,
        inputs: &mut Vec<Pending>,
        acks: Vec<(Uuid, Lease, bool)>,
        cancelled: Vec<(Lease, CancelReason)>,
        mut refused: HashMap<usize, OrderError>,
        mut asks: HashMap<usize, Ask>,
    ) {
        for (worker_id, lease, accepted) in acks {
            if !accepted {
                self.shared.metrics.results_stale.add(1);
            }
            self.shared
                .hub
                .send(worker_id, ToWorker::Ack { lease, accepted });
        }
        for (lease, reason) in cancelled {
            self.shared.hub.cancel(lease, reason);
        }
        for (i, pending) in inputs.drain(..).enumerate() {
            if let Some(ask) = asks.remove(&i) {
                self.own.judge_aside(pending, ask);
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

/// Divides a batch; the first half is settled next.
fn halve(work: &mut Vec<Vec<Pending>>, mut inputs: Vec<Pending>) {
    let half = inputs.split_off(inputs.len() / 2);
    work.push(half);
    work.push(inputs);
}

/// Lets the writes check what the decision rests on.
fn expect(changes: &mut Changes, read: &SettleRead) {
    for update in &mut changes.tasks {
        let before = read
            .tasks
            .iter()
            .find(|task| task.task_id == update.task_id);
        update.expected = before.map(|task| task.progress.clone());
    }
}

/// Sends committed claims to their workers. Those whose worker is gone come back, to be given to others.
pub fn deliver(assignments: Vec<Assignment>, mut reservation: Reservation) -> Vec<Input> {
    assignments
        .into_iter()
        .filter_map(|a| {
            let (lease, worker_id) = (a.lease, a.worker_id);
            let undelivered = Input::Gone {
                lease,
                worker_id,
                outcome: Outcome::Undelivered,
            };
            (!reservation.deliver(a)).then_some(undelivered)
        })
        .collect()
}

/// The lanes of the steps that this transaction leaves ready and without a worker.
fn lanes_left(changes: &Changes, plans: &Plans) -> HashSet<i32> {
    let new = changes
        .new_live
        .iter()
        .filter(|live| live.grant.is_none() && live.is_due())
        .map(|live| live.lane_id);
    let given_back = changes.given_back.iter().filter_map(|back| {
        let plan = plans.get(&back.attempt.template_id)?;
        Some(plan.lane(u16::try_from(back.attempt.step).ok()?))
    });
    new.chain(given_back).collect()
}
