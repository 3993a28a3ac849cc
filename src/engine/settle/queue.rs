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

use super::{
    Input, MAX_QUEUE_KIB, Pending,
    inputs::Place,
    judging::{Ask, Verdicts},
};
use crate::engine::hash::{HashMap, HashSet};
use crate::{
    domain::attempt::Outcome,
    engine::{
        catalog::Plan,
        documents::Known,
        gates::Passes,
        hub::Reservation,
        judge::{SMALL_BYTES, SMALL_STEPS, Shares, Unjudged},
        shared::Shared,
    },
    store::{
        StoreError, documents,
        pipeline::{Changes, WantedInputs},
    },
};

/// Delay between two tries to read documents.
const READ_PAUSE: Duration = Duration::from_millis(500);

/// The sending end of the settle queue. Cheap to clone.
#[derive(Clone)]
pub struct SettleQueue {
    sender: mpsc::Sender<Pending>,
    weight: Arc<Semaphore>,
    /// For inputs that hold their capacity already or need none.
    again: mpsc::UnboundedSender<Pending>,
    shared: Shared,
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
        shared: Shared,
        sender: mpsc::Sender<Pending>,
        again: mpsc::UnboundedSender<Pending>,
    ) -> Self {
        let weight = Arc::new(Semaphore::new(MAX_QUEUE_KIB));
        Self {
            sender,
            weight,
            again,
            shared,
            shares: Shares::default(),
            aside: Arc::default(),
        }
    }

    /// Waits for capacity, so a caller that reads from a stream stops reading meanwhile. An input
    /// that needs an evaluation delays the caller only while its namespace's share is used up.
    pub async fn push(&self, input: Input) -> Result<(), Closed> {
        let mut pending = Pending::from(input);
        if let Some(plan) = self.to_judge(&pending).await {
            let ask = self.ask(&pending, &plan);
            match ask.as_ref().and_then(|ask| self.judge_here(&pending, ask)) {
                Some(verdicts) => (pending.verdicts, pending.rounds) = (verdicts, 1),
                None => {
                    self.take_share(&mut pending, &plan).await;
                    // The queue may have closed while this input waited for its share.
                    if self.sender.is_closed() {
                        return Err(Closed);
                    }
                    match ask {
                        Some(ask) => self.judge_aside(pending, ask),
                        None => self.come(pending),
                    }
                    return Ok(());
                }
            }
        }
        let kib = 1 + pending.size() / 1024;
        pending.place = Place::Queue {
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

    async fn take_share(&self, pending: &mut Pending, plan: &Plan) {
        let share = self
            .shares
            .take(&plan.template.namespace, pending.size())
            .await;
        pending.place = Place::Judging { _share: share };
    }

    /// Queues an input without capacity of the queue.
    pub(super) fn come(&self, pending: Pending) {
        let _ = self.again.send(pending);
    }

    /// The plan of an input that needs an evaluation, as far as this server can see.
    async fn to_judge(&self, pending: &Pending) -> Option<Arc<Plan>> {
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
                let template_id = documents::template_of(&self.shared.db, lease.task_id)
                    .await
                    .ok()
                    .flatten()?;
                self.shared.catalog.plan(template_id).await.ok()?
            }
            None => return None,
        };
        plan.judges(lease.step).then_some(plan)
    }

    /// The evaluation request, if the attempt cache has the task's row.
    fn ask(&self, pending: &Pending, plan: &Arc<Plan>) -> Option<Ask> {
        let Input::Result { lease, .. } = &**pending else {
            return None;
        };
        Some(Ask {
            plan: Arc::clone(plan),
            row: self.shared.held.row(lease.task_id)?,
            step: lease.step,
        })
    }

    /// Evaluates at once if that takes microseconds; None if the documents are not cached or too
    /// large.
    fn judge_here(&self, pending: &Pending, ask: &Ask) -> Option<Verdicts> {
        let result = pending.result();
        if result.map_or(0, str::len) > SMALL_BYTES {
            return None;
        }
        let mut wanted = ask.wanted();
        let known = self.shared.documents.know(&mut wanted, &Changes::default());
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
    pub(super) fn judge_aside(&self, mut pending: Pending, ask: Ask) {
        self.aside.fetch_add(1, Relaxed);
        let (queue, aside) = (self.clone(), Aside(Arc::clone(&self.aside)));
        tokio::spawn(async move {
            // A large input gives up its place in the queue for one in its namespace's share, so
            // that only its own namespace waits.
            if matches!(pending.place, Place::Queue { .. }) && pending.size() > SMALL_BYTES {
                queue.take_share(&mut pending, &ask.plan).await;
            }
            if let Some(verdicts) = queue.judged(&pending, ask).await {
                (pending.verdicts, pending.rounds) = (verdicts, pending.rounds + 1);
            }
            queue.come(pending);
            drop(aside);
        });
    }

    /// Whether an evaluation is pending.
    pub(super) fn judges(&self) -> bool {
        self.aside.load(Relaxed) > 0
    }

    /// Returns `None` if the server shuts down first.
    async fn judged(&self, pending: &Pending, ask: Ask) -> Option<Verdicts> {
        let (turn, known) = loop {
            // The turn comes before the documents, so a waiting input holds none in memory.
            let turn = self.shared.judge.turn(ask.namespace()).await;
            match self.known(&ask).await {
                Ok(Some(known)) => break (turn, known),
                Ok(None) => {
                    self.shared.metrics.judging.too_costly.add(1);
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
            .shared
            .judge
            .run(turn, move || {
                ask.judge(result.as_deref(), &known, &Budget::new())
            })
            .await;
        match verdict {
            Ok(verdicts) => {
                self.shared
                    .metrics
                    .judging
                    .too_costly
                    .add(usize::from(verdicts.is_over_budget()));
                Some(verdicts)
            }
            Err(Unjudged::Closed) => None,
            Err(error) => Some(Verdicts::failed(TOO_COSTLY, error.to_string())),
        }
    }

    /// Reads the documents; `None` if they are too large together.
    async fn known(&self, ask: &Ask) -> Result<Option<Known>, StoreError> {
        let mut wanted: WantedInputs = ask.wanted();
        let mut known = self.shared.documents.know(&mut wanted, &Changes::default());
        if wanted.tasks.is_empty() && wanted.results.is_empty() {
            return Ok(Some(known));
        }
        let read = documents::read(&self.shared.db, &wanted).await?;
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
    pub fn doubt(&self, reservation: &Reservation) {
        for (lease, worker_id) in reservation.promised() {
            let outcome = Outcome::Undelivered;
            self.come(
                Input::Gone {
                    lease: *lease,
                    worker_id: *worker_id,
                    outcome,
                }
                .into(),
            );
        }
    }

    /// Queues the expiry of a task. Never waits; there are at most as many as running attempts.
    pub(super) fn expire(&self, task_id: Uuid) {
        self.come(Input::Expire { task_id }.into());
    }

    /// Handles a failed commit. If it may have taken place, its claims are released, and count as
    /// in use until then.
    pub fn uncommitted(&self, error: &StoreError, reservation: &Reservation, passes: Passes) {
        if !error.is_expectation() {
            self.doubt(reservation);
            passes.commit(false, &HashSet::default());
        }
    }
}
