//! The entry to the settle loop, and the detour for inputs that need an evaluation first.
//!
//! The settle loop decides by verdicts and never evaluates itself. If this server has all the
//! documents, an input is evaluated before it enters a transaction. If only the locked rows show
//! that a verdict is missing, the input leaves its batch, is evaluated, and is queued again.
//! Meanwhile it occupies its namespace's share of the evaluation capacity and none of the queue's,
//! so it delays only its own namespace.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tasker_template::{Budget, TOO_COSTLY};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use uuid::Uuid;

use crate::{
    domain::attempt::Outcome,
    engine::{
        admission::reservation::CapacityReservation,
        cache::payloads::Payloads,
        context::EngineContext,
        decide::input::{HeldCapacity, Input, PendingInput},
        dispatch::reservation::SlotReservation,
        evaluate::{
            pool::{SMALL_BYTES, SMALL_STEPS},
            shares::Shares,
            threads::NoVerdict,
            verdicts::{EvaluationRequest, Verdicts},
        },
        hash::{HashMap, HashSet},
        loops::Loops,
        plan::compiled::Plan,
    },
    store::{
        StoreError, documents,
        pipeline::{Changes, WantedInputs},
    },
};

/// Maximum bytes of results in the queue or in a transaction, in KiB.
pub(super) const MAX_QUEUE_KIB: usize = 64 << 10;
/// Delay between two tries to read documents.
const READ_PAUSE: Duration = Duration::from_millis(500);

/// The sending end of the settle queue. Cheap to clone.
#[derive(Clone)]
pub struct SettleQueue {
    sender: mpsc::Sender<PendingInput>,
    weight: Arc<Semaphore>,
    /// For inputs that hold their capacity already or need none.
    again: mpsc::UnboundedSender<PendingInput>,
    context: EngineContext,
    loops: Loops,
    shares: Shares,
    aside: Arc<AtomicUsize>,
}

/// The settle loop has ended because the server shuts down.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the server is shutting down")]
pub struct Closed;

/// Counts an input that is being evaluated.
struct Aside(Arc<AtomicUsize>);

impl Drop for Aside {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl SettleQueue {
    pub(super) fn new(
        context: EngineContext,
        loops: Loops,
        sender: mpsc::Sender<PendingInput>,
        again: mpsc::UnboundedSender<PendingInput>,
    ) -> Self {
        let weight = Arc::new(Semaphore::new(MAX_QUEUE_KIB));
        Self {
            sender,
            weight,
            again,
            context,
            loops,
            shares: Shares::default(),
            aside: Arc::default(),
        }
    }

    /// Waits for capacity, so a caller that reads from a stream stops reading meanwhile. An input
    /// that needs an evaluation delays the caller only while its namespace's share is used up.
    pub async fn push(&self, input: Input) -> Result<(), Closed> {
        let mut pending = PendingInput::from(input);
        if let Some(plan) = self.plan_to_evaluate(&pending).await {
            let ask = self.ask(&pending, &plan);
            match ask
                .as_ref()
                .and_then(|ask| self.evaluate_here(&pending, ask))
            {
                Some(verdicts) => (pending.verdicts, pending.rounds) = (verdicts, 1),
                None => {
                    self.take_share(&mut pending, &plan).await;
                    // The queue may have closed while this input waited for its share.
                    if self.sender.is_closed() {
                        return Err(Closed);
                    }
                    match ask {
                        Some(ask) => self.evaluate_aside(pending, ask),
                        None => self.requeue(pending),
                    }
                    return Ok(());
                }
            }
        }
        let kib = 1 + pending.size() / 1024;
        pending.place = HeldCapacity::Queue {
            _weight: self.weigh(kib).await?,
        };
        self.sender.send(pending).await.map_err(|_| Closed)
    }

    async fn weigh(&self, kib: usize) -> Result<OwnedSemaphorePermit, Closed> {
        let permits = u32::try_from(kib.min(MAX_QUEUE_KIB)).unwrap_or(u32::MAX);
        Arc::clone(&self.weight)
            .acquire_many_owned(permits)
            .await
            .map_err(|_| Closed)
    }

    async fn take_share(&self, pending: &mut PendingInput, plan: &Plan) {
        let share = self
            .shares
            .take(&plan.template.namespace, pending.size())
            .await;
        pending.place = HeldCapacity::Judging { _share: share };
    }

    /// Queues an input without capacity of the queue.
    pub(super) fn requeue(&self, pending: PendingInput) {
        let _ = self.again.send(pending);
    }

    /// The plan of an input that needs an evaluation, as far as this server can see.
    async fn plan_to_evaluate(&self, pending: &PendingInput) -> Option<Arc<Plan>> {
        let Input::Result {
            lease,
            outcome: Outcome::Succeeded(result),
            plan,
            ..
        } = &**pending
        else {
            return None;
        };
        let plan = match plan {
            Some(plan) => Arc::clone(plan),
            // The lease came with another connection or belongs to another server. Small results
            // may wait in the queue.
            None if result.len() > SMALL_BYTES => {
                let template_id = documents::template_of(&self.context.db, lease.task_id)
                    .await
                    .ok()
                    .flatten()?;
                self.context.templates.plan(template_id).await.ok()?
            }
            None => return None,
        };
        plan.judges(lease.step).then_some(plan)
    }

    /// The evaluation request, if the attempt cache has the task's row.
    fn ask(&self, pending: &PendingInput, plan: &Arc<Plan>) -> Option<EvaluationRequest> {
        let Input::Result { lease, .. } = &**pending else {
            return None;
        };
        Some(EvaluationRequest {
            plan: Arc::clone(plan),
            row: self.context.attempts.row(lease.task_id)?,
            step: lease.step,
        })
    }

    /// Evaluates at once if that takes microseconds; None if the documents are not cached or too
    /// large.
    fn evaluate_here(&self, pending: &PendingInput, ask: &EvaluationRequest) -> Option<Verdicts> {
        let result = pending.result();
        if result.map_or(0, str::len) > SMALL_BYTES {
            return None;
        }
        let mut wanted = ask.wanted();
        let known = self
            .context
            .payloads
            .lookup(&mut wanted, &Changes::default());
        if !wanted.tasks.is_empty()
            || !wanted.results.is_empty()
            || ask.bytes(result, &known) > SMALL_BYTES
        {
            return None;
        }
        let verdicts = ask.judge(result, &known, &Budget::of(SMALL_STEPS));
        (!verdicts.is_over_budget()).then_some(verdicts)
    }

    /// Evaluates an input on the evaluation threads and queues it again.
    pub(super) fn evaluate_aside(&self, mut pending: PendingInput, ask: EvaluationRequest) {
        self.aside.fetch_add(1, Relaxed);
        let (queue, aside) = (self.clone(), Aside(Arc::clone(&self.aside)));
        // Not until the shutdown alone: the settle loop waits for the last evaluations, and ends
        // when nothing more can be settled.
        let again = self.again.clone();
        let settled = async move { again.closed().await };
        self.loops.spawn_until(settled, async move {
            // A large input gives up its place in the queue for one in its namespace's share, so
            // that only its own namespace waits.
            if matches!(pending.place, HeldCapacity::Queue { .. }) && pending.size() > SMALL_BYTES {
                queue.take_share(&mut pending, &ask.plan).await;
            }
            if let Some(verdicts) = queue.evaluated(&pending, ask).await {
                (pending.verdicts, pending.rounds) = (verdicts, pending.rounds + 1);
            }
            queue.requeue(pending);
            drop(aside);
        });
    }

    /// Whether an evaluation is pending.
    pub(super) fn is_evaluating(&self) -> bool {
        self.aside.load(Relaxed) > 0
    }

    /// Returns `None` if the server shuts down first.
    async fn evaluated(&self, pending: &PendingInput, ask: EvaluationRequest) -> Option<Verdicts> {
        let (turn, known) = loop {
            // The turn comes before the documents, so a waiting input holds none in memory.
            let turn = self.context.evaluator.turn(ask.namespace()).await;
            match self.known(&ask).await {
                Ok(Some(known)) => break (turn, known),
                Ok(None) => {
                    self.context.metrics.judging.too_costly.add(1);
                    let mib = documents::MAX_RESULTS_BYTES >> 20;
                    let why = format!(
                        "the conditions that follow read results of more than {mib} MiB together"
                    );
                    return Some(Verdicts::failed(TOO_COSTLY, why));
                }
                Err(error) => {
                    drop(turn);
                    tracing::debug!(%error, "documents of an evaluation cannot be read; retrying");
                    tokio::time::sleep(READ_PAUSE).await;
                    if self.sender.is_closed() {
                        return None;
                    }
                }
            }
        };
        let result = pending.result().map(str::to_owned);
        let verdict = self
            .context
            .evaluator
            .run(turn, move || {
                ask.judge(result.as_deref(), &known, &Budget::new())
            })
            .await;
        match verdict {
            Ok(verdicts) => {
                self.context
                    .metrics
                    .judging
                    .too_costly
                    .add(usize::from(verdicts.is_over_budget()));
                Some(verdicts)
            }
            Err(NoVerdict::Closed) => None,
            Err(error) => Some(Verdicts::failed(TOO_COSTLY, error.to_string())),
        }
    }

    /// Reads the documents; `None` if they are too large together.
    async fn known(&self, ask: &EvaluationRequest) -> Result<Option<Payloads>, StoreError> {
        let mut wanted: WantedInputs = ask.wanted();
        let mut known = self
            .context
            .payloads
            .lookup(&mut wanted, &Changes::default());
        if wanted.tasks.is_empty() && wanted.results.is_empty() {
            return Ok(Some(known));
        }
        let read = documents::read(&self.context.db, &wanted).await?;
        if read.too_large {
            return Ok(None);
        }
        known.tasks.extend(
            read.tasks
                .into_iter()
                .map(|input| (input.task_id, Arc::new(input))),
        );
        let results: HashMap<(Uuid, i16), Arc<str>> = read
            .results
            .into_iter()
            .map(|(task, step, json)| ((task, step), Arc::from(json)))
            .collect();
        known.results.extend(results);
        Ok(Some(known))
    }

    /// Releases the claims of a commit of uncertain outcome. If it took place, the database holds
    /// leases that no worker has, and a live worker's heartbeats would extend them for ever. A
    /// claim that was not made is not found and ignored.
    ///
    /// Never waits, so a caller whose database is away can go on and report it. The number is
    /// bounded by the claims of the one transaction in which a loop lost its connection, as the
    /// loop makes no progress without a new one.
    fn release_claims(&self, reservation: &SlotReservation) {
        for (lease, worker_id) in reservation.allocated() {
            self.requeue(Input::undelivered(*lease, *worker_id).into());
        }
    }

    /// Queues the expiry of a task. Never waits; there are at most as many as running attempts.
    pub(super) fn expire(&self, task_id: Uuid) {
        self.requeue(Input::Expire { task_id }.into());
    }

    /// Handles a failed commit. If it may have taken place, its claims are released, and count as
    /// in use until then.
    pub fn commit_failed(
        &self,
        error: &StoreError,
        reservation: &SlotReservation,
        capacity: CapacityReservation,
    ) {
        if !error.is_expectation() {
            self.release_claims(reservation);
            capacity.commit(false, &HashSet::default());
        }
    }
}
