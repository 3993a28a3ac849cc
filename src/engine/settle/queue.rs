//! The way into the settler, and the way aside for what has to be judged first.
//!
//! The settler decides by verdicts and never judges itself. An input that needs one is judged before it gets into a transaction
//! if all that it takes is known here; what only the locked rows show to be missing leaves its batch, is judged, and comes
//! again. Meanwhile it has a place of its namespace's share and none of the queue's, so it keeps waiting only its own namespace.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use uuid::Uuid;

use super::{
    Input, MAX_QUEUE_KIB, Pending,
    inputs::Place,
    judging::{Ask, Verdicts},
};
use crate::engine::hash::{HashMap, HashSet};
use crate::{
    domain::{
        attempt::Outcome,
        budget::{Budget, TOO_COSTLY},
    },
    engine::{
        catalog::Plan,
        documents::Known,
        gates::Passes,
        hub::Reservation,
        judge::{SMALL_BYTES, SMALL_STEPS, Shares, Unjudged},
        shared::Shared,
    },
    store::{
        StoreError,
        changes::{Changes, WantedInputs},
        documents,
    },
};

/// The pause between two tries to read documents.
const READ_PAUSE: Duration = Duration::from_millis(500);

/// The way into the settler.
#[derive(Clone)]
pub struct SettleQueue {
    sender: mpsc::Sender<Pending>,
    weight: Arc<Semaphore>,
    /// For what has its place already, or needs none.
    again: mpsc::UnboundedSender<Pending>,
    shared: Shared,
    shares: Shares,
    aside: Arc<AtomicUsize>,
}

/// The settler is gone: the server ends.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the server is shutting down")]
pub struct Closed;

/// Counts an input that is being judged.
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

    /// Waits for a place; a caller that reads from a stream thereby stops reading. What has to be judged does not keep the
    /// caller, unless its namespace has its share waiting already.
    pub async fn push(&self, input: Input) -> Result<(), Closed> {
        let mut pending = Pending::from(input);
        if let Some(plan) = self.to_judge(&pending).await {
            let ask = self.ask(&pending, &plan);
            match ask.as_ref().and_then(|ask| self.judge_here(&pending, ask)) {
                Some(verdicts) => (pending.verdicts, pending.rounds) = (verdicts, 1),
                None => {
                    self.take_share(&mut pending, &plan).await;
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

    /// Has an input come into a batch without a place in the queue.
    pub(super) fn come(&self, pending: Pending) {
        let _ = self.again.send(pending);
    }

    /// The plan of an input that has to be judged, as far as that can be seen from here.
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
            // Of another connection, or another server. What is small may wait in the queue.
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

    /// What to judge, if this server knows how the task stands.
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

    /// Judges at once what takes no more than some microseconds.
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

    /// Judges an input on the judging threads and has it come again.
    pub(super) fn judge_aside(&self, mut pending: Pending, ask: Ask) {
        self.aside.fetch_add(1, Relaxed);
        let (queue, aside) = (self.clone(), Aside(Arc::clone(&self.aside)));
        tokio::spawn(async move {
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

    /// Whether something is being judged.
    pub(super) fn judges(&self) -> bool {
        self.aside.load(Relaxed) > 0
    }

    /// Nothing when the server ends first.
    async fn judged(&self, pending: &Pending, ask: Ask) -> Option<Verdicts> {
        let (turn, known) = loop {
            // Before the documents: what waits for its turn holds none.
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
                    tracing::debug!(%error, "documents to judge by could not be read, trying again");
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

    /// The documents, or nothing when they are too large together.
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

    /// Gives back what a commit of unknown outcome may have claimed: if it did take place, the database holds leases
    /// that no worker knows of, and a worker that lives would keep them for ever. A claim that was not made is not found.
    ///
    /// Never waits, so that a caller whose database is away can go on and say so. Not bounded by a number, but by what it
    /// holds: at most the claims of the one transaction in which a loop lost its connection, as it gets no further
    /// without a new one.
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

    /// The deadline of a task has passed. Never waits; there are no more of these than there are running attempts.
    pub(super) fn expire(&self, task_id: Uuid) {
        self.come(Input::Expire { task_id }.into());
    }

    /// A commit failed. If it may have taken place after all, what it may have claimed is given back, and counts as used
    /// until then.
    pub fn uncommitted(&self, error: &StoreError, reservation: &Reservation, passes: Passes) {
        if !error.is_expectation() {
            self.doubt(reservation);
            passes.commit(false, &HashSet::default());
        }
    }
}
