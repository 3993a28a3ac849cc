//! Takes everything that ends an attempt or a task, applies it, and hands on what becomes ready: one transaction per
//! batch. While one is in flight the next batch gathers, so a batch is one input when idle and hundreds under load.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    assignment::{self, Assignment},
    catalog::{Catalog, Plan},
    claims::{self, Plans},
    health::HealthCell,
    hub::{CancelReason, Hub, Reservation, ToWorker, Want},
    peers::Peers,
    watch::Watchers,
};
use crate::{
    domain::{
        attempt::{Outcome, OutcomeKind, Spent},
        event::EventType,
        lease::Lease,
        retry::Backoff,
        step::{StepEvent, StepState},
        task::{TaskEvent, TaskState},
    },
    store::{
        Db, StoreError,
        changes::{Changes, Ended, EndedAttempt, Event, GivenBack, NewLive, Retry, TaskUpdate},
        hot::{Hot, LiveRow, SettleRead, TaskRow},
    },
};

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
/// How long a released step of a worker that does not drain waits.
const RELEASE_PAUSE: Backoff = Backoff { base_seconds: 1.0, multiplier: 1.0, max_seconds: 1.0, jitter: 0.0 };

/// Something that ends an attempt or a task.
pub enum Input {
    /// A worker's answer; the acknowledgement goes back to `worker_id`.
    Result { lease: Lease, outcome: Outcome, worker_id: Uuid, plan: Option<Arc<Plan>> },
    /// The lease's worker is gone, or never got the assignment.
    Gone { lease: Lease, worker_id: Uuid, outcome: Outcome },
    /// The deadline passed by this server's clock; the database's decides.
    Deadline { lease: Lease },
    /// Somebody cancels a task.
    Cancel { task_id: Uuid, by: String, reason: String, reply: oneshot::Sender<Result<(), CancelError>> },
}

/// Why a task was not cancelled.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CancelError {
    #[error("there is no task {0}")]
    NotFound(Uuid),
    #[error("the task is {0} already")]
    Ended(TaskState),
    #[error("the cancellation could not be stored: {0}")]
    Failed(String),
}

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
            Input::Cancel { by, reason, .. } => 1 + (by.len() + reason.len()) / 1024,
            Input::Gone { .. } | Input::Deadline { .. } => 1,
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
            let outcome = Outcome::Released { pause: false };
            let _ = self.doubts.send(Input::Gone { lease: *lease, worker_id: *worker_id, outcome });
        }
    }
}

/// The settling loop.
pub struct Settler {
    pub db: Db,
    pub catalog: Arc<Catalog>,
    pub hub: Arc<Hub>,
    pub watchers: Watchers,
    pub peers: Arc<Peers>,
    pub health: HealthCell,
    queue: mpsc::Receiver<Weighed>,
    doubts: mpsc::UnboundedReceiver<Input>,
    /// For the doubts of this loop's own.
    own: SettleQueue,
    hot: Option<Hot>,
}

impl Settler {
    pub fn new(
        db: Db,
        catalog: Arc<Catalog>,
        hub: Arc<Hub>,
        watchers: Watchers,
        peers: Arc<Peers>,
        health: HealthCell,
    ) -> (Self, SettleQueue) {
        let (sender, queue) = mpsc::channel(MAX_QUEUE);
        let weight = Arc::new(Semaphore::new(MAX_QUEUE_KIB));
        let (doubt, doubts) = mpsc::unbounded_channel();
        let own = SettleQueue { sender, weight, doubts: doubt };
        (Self { db, catalog, hub, watchers, peers, health, queue, doubts, own: own.clone(), hot: None }, own)
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
        let mut work = vec![inputs];
        let mut pause = RETRY_PAUSE.0;
        while let Some(mut inputs) = work.pop() {
            match self.run_once(&mut inputs).await {
                Ok(undelivered) => {
                    pause = RETRY_PAUSE.0;
                    self.health.database(true);
                    if !undelivered.is_empty() {
                        work.push(undelivered);
                    }
                }
                Err(error) if error.is_transient() => {
                    tracing::debug!(%error, inputs = inputs.len(), "settling failed, trying again");
                    if self.hot.as_ref().is_none_or(Hot::is_closed) {
                        self.hot = None;
                        self.health.database(false);
                    }
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
                        Some(Input::Cancel { reply, .. }) => {
                            let _ = reply.send(Err(CancelError::Failed(error.to_string())));
                        }
                        // Nobody may wait for an acknowledgement that never comes: the worker says it again, perhaps to
                        // a server that can settle it.
                        Some(Input::Result { worker_id, .. }) => drop(self.hub.remove(worker_id)),
                        _ => {}
                    }
                }
            }
        }
    }

    /// One transaction. On success `inputs` is empty and what comes back is to be settled next: attempts whose worker
    /// left before the assignment was sent. On failure `inputs` is as it was.
    pub async fn run_once(&mut self, inputs: &mut Vec<Input>) -> Result<Vec<Input>, StoreError> {
        let hot = match self.hot.take() {
            Some(hot) => hot,
            None => Hot::connect(&self.db).await?,
        };
        let result = self.settle(&hot, inputs).await;
        if result.is_err() && !hot.is_closed() && hot.rollback().await.is_err() {
            return result;
        }
        self.hot = Some(hot);
        result
    }

    async fn settle(&self, hot: &Hot, inputs: &mut Vec<Input>) -> Result<Vec<Input>, StoreError> {
        let mut reservation = self.hub.reserve(&Want::Lanes(&children_of(inputs)));
        let (leases, tasks, cancels) = keys_of(inputs);
        let read = hot.begin_settle(&leases, &tasks, &cancels, &reservation.demand()).await?;
        let past = match missing(inputs, &read) {
            missing if missing.is_empty() => HashMap::new(),
            missing => hot.past_outcomes(&missing).await?.into_iter().collect(),
        };
        let plans = self.plans(&read).await?;
        let mut decision = Decision::new(&read, &plans);
        decision.take_cancels(inputs);
        for input in inputs.iter() {
            decision.take(input, &past);
        }
        let Decision { mut changes, acks, cancelled, refused, touched, .. } = decision.finish();
        let (claimed, wanted) = claims::grant(&mut changes, &read.candidates, &plans, &mut reservation, read.now);
        let unserved = lanes_left(&changes, &plans);
        changes.notify = self.peers.news(!unserved.is_empty(), !cancelled.is_empty(), !touched.is_empty());
        let freed: Vec<Uuid> = acks.iter().map(|(worker_id, ..)| *worker_id).collect();
        let undelivered = if changes.is_empty() {
            hot.rollback().await?;
            Vec::new()
        } else {
            let committed = hot.commit(&changes, &wanted, read.now).await;
            let mut applied = committed.inspect_err(|_| self.own.doubt(&reservation))?;
            let claimed = claimed.into_iter().chain(std::mem::take(&mut applied.claimed)).collect();
            if let Some(after) = applied.next_retry {
                self.hub.retry_in(after);
            }
            deliver(assignment::assemble(claimed, &applied, &plans, read.now), reservation)
        };
        self.tell(inputs, acks, cancelled, refused);
        self.watchers.tell(touched);
        self.hub.steps_wait(unserved);
        self.hub.slots_freed(freed);
        Ok(undelivered)
    }

    async fn plans(&self, read: &SettleRead) -> Result<Plans, StoreError> {
        let mut plans = self.catalog.readable(read.candidates.iter().map(|c| c.template_id)).await?;
        for id in read.tasks.iter().map(|t| t.template_id).collect::<HashSet<_>>() {
            plans.insert(id, self.catalog.plan(id).await?);
        }
        Ok(plans)
    }

    /// After the commit, and never before: acknowledgements, cancels and replies.
    fn tell(
        &self,
        inputs: &mut Vec<Input>,
        acks: Vec<(Uuid, Lease, bool)>,
        cancelled: Vec<(Lease, CancelReason)>,
        mut refused: HashMap<usize, CancelError>,
    ) {
        for (worker_id, lease, accepted) in acks {
            self.hub.send(worker_id, ToWorker::Ack { lease, accepted });
        }
        for (lease, reason) in cancelled {
            self.hub.cancel(lease, reason);
        }
        for (i, input) in inputs.drain(..).enumerate() {
            if let Input::Cancel { task_id, reply, .. } = input {
                let answer = refused.remove(&i).map_or(Ok(()), Err);
                if answer.is_ok() {
                    // Also those that an earlier try ended whose commit was not confirmed.
                    for lease in self.hub.leases_of(task_id) {
                        self.hub.cancel(lease, CancelReason::TaskCancelled);
                    }
                }
                let _ = reply.send(answer);
            }
        }
    }
}

/// Sends committed claims to their workers. Those whose worker is gone come back, to be given to others.
pub fn deliver(assignments: Vec<Assignment>, mut reservation: Reservation) -> Vec<Input> {
    assignments
        .into_iter()
        .filter_map(|a| {
            let (lease, worker_id) = (a.lease, a.worker_id);
            let undelivered = Input::Gone { lease, worker_id, outcome: Outcome::Released { pause: false } };
            (!reservation.deliver(a)).then_some(undelivered)
        })
        .collect()
}

/// The lanes of the steps that this transaction leaves ready and without a worker.
fn lanes_left(changes: &Changes, plans: &Plans) -> HashSet<i32> {
    let new = changes.new_live.iter().filter(|live| live.grant.is_none()).map(|live| live.lane_id);
    let given_back = changes.given_back.iter().filter_map(|back| {
        let plan = plans.get(&back.attempt.template_id)?;
        Some(plan.lane(u16::try_from(back.attempt.step).ok()?))
    });
    new.chain(given_back).collect()
}

/// How many steps of each lane could become ready through these inputs.
fn children_of(inputs: &[Input]) -> BTreeMap<i32, usize> {
    let mut lanes: BTreeMap<i32, usize> = BTreeMap::new();
    for input in inputs {
        let Input::Result { lease, outcome: Outcome::Succeeded(_), plan: Some(plan), .. } = input else { continue };
        for child in plan.graph.children(usize::try_from(lease.step).unwrap_or(usize::MAX)) {
            *lanes.entry(plan.lane(*child)).or_default() += 1;
        }
    }
    lanes
}

/// What to lock: the leases, the tasks, and the tasks to cancel, each in order and once.
fn keys_of(inputs: &[Input]) -> (Vec<Lease>, Vec<Uuid>, Vec<Uuid>) {
    let mut leases: Vec<Lease> = Vec::with_capacity(inputs.len());
    let mut cancels: Vec<Uuid> = Vec::new();
    for input in inputs {
        match input {
            Input::Result { lease, .. } | Input::Gone { lease, .. } | Input::Deadline { lease } => leases.push(*lease),
            Input::Cancel { task_id, .. } => cancels.push(*task_id),
        }
    }
    leases.sort_unstable_by_key(|l| (l.task_id, l.step, l.nonce));
    leases.dedup_by_key(|l| (l.task_id, l.step));
    cancels.sort_unstable();
    cancels.dedup();
    let mut tasks: Vec<Uuid> = leases.iter().map(|l| l.task_id).chain(cancels.iter().copied()).collect();
    tasks.sort_unstable();
    tasks.dedup();
    (leases, tasks, cancels)
}

/// The results whose lease is not the running one: copies, or too late.
fn missing(inputs: &[Input], read: &SettleRead) -> Vec<Lease> {
    let live: HashSet<Lease> = read
        .live
        .iter()
        .filter_map(|row| Some(Lease { task_id: row.task_id, step: row.step, nonce: row.lease? }))
        .collect();
    inputs
        .iter()
        .filter_map(|input| match input {
            Input::Result { lease, .. } if !live.contains(lease) => Some(*lease),
            _ => None,
        })
        .collect()
}

struct TaskInHand<'a> {
    row: &'a TaskRow,
    plan: &'a Plan,
    progress: crate::domain::progress::Progress,
    changed: bool,
    cancelled: Option<(String, String)>,
}

/// What a batch amounts to. Pure: from what was read to what is to be written.
struct Decision<'a> {
    now: SystemTime,
    tasks: BTreeMap<Uuid, TaskInHand<'a>>,
    /// Rows that are still in play, by step.
    live: BTreeMap<(Uuid, i16), &'a LiveRow>,
    /// Leases settled in this batch: a second copy is as good as the first.
    settled: HashMap<Lease, bool>,
    changes: Changes,
    acks: Vec<(Uuid, Lease, bool)>,
    cancelled: Vec<(Lease, CancelReason)>,
    refused: HashMap<usize, CancelError>,
    touched: Vec<Uuid>,
}

impl<'a> Decision<'a> {
    fn new(read: &'a SettleRead, plans: &'a Plans) -> Self {
        let tasks = read
            .tasks
            .iter()
            .filter_map(|row| {
                let plan = plans.get(&row.template_id)?;
                let progress = row.progress.clone();
                Some((row.task_id, TaskInHand { row, plan, progress, changed: false, cancelled: None }))
            })
            .collect();
        Self {
            now: read.now,
            tasks,
            live: read.live.iter().map(|row| ((row.task_id, row.step), row)).collect(),
            settled: HashMap::new(),
            changes: Changes::default(),
            acks: Vec::new(),
            cancelled: Vec::new(),
            refused: HashMap::new(),
            touched: Vec::new(),
        }
    }

    /// Cancels go first: a result that came in the same moment is then too late, and nothing has to be undone.
    fn take_cancels(&mut self, inputs: &[Input]) {
        for (i, input) in inputs.iter().enumerate() {
            if let Input::Cancel { task_id, by, reason, .. } = input
                && let Err(error) = self.cancel(*task_id, by, reason)
            {
                self.refused.insert(i, error);
            }
        }
    }

    fn take(&mut self, input: &Input, past: &HashMap<Lease, OutcomeKind>) {
        match input {
            Input::Result { lease, outcome, worker_id, .. } => {
                let accepted = match self.settled.get(lease) {
                    Some(accepted) => *accepted,
                    None => {
                        let live = self.end_attempt(*lease, outcome, None);
                        live || past.get(lease).is_some_and(|kind| kind.is_from_worker())
                    }
                };
                self.settled.insert(*lease, accepted);
                self.acks.push((*worker_id, *lease, accepted));
            }
            Input::Gone { lease, worker_id, outcome } => {
                if self.end_attempt(*lease, outcome, Some(*worker_id)) {
                    self.settled.insert(*lease, false);
                    self.cancelled.push((*lease, CancelReason::LeaseLost));
                }
            }
            Input::Deadline { lease } => self.deadline(*lease),
            Input::Cancel { .. } => {}
        }
    }

    fn deadline(&mut self, lease: Lease) {
        match self.row(lease).map(|row| row.deadline_at) {
            Some(at) if at.is_some_and(|at| at <= self.now) => {
                if self.end_attempt(lease, &Outcome::TimedOut, None) {
                    self.settled.insert(lease, false);
                    self.cancelled.push((lease, CancelReason::TimedOut));
                }
            }
            Some(_) => {}
            // It ended and its worker was not told, perhaps because that commit was not confirmed.
            None => self.cancelled.push((lease, CancelReason::LeaseLost)),
        }
    }

    /// The row of a lease that is the running one.
    fn row(&self, lease: Lease) -> Option<&'a LiveRow> {
        self.live.get(&(lease.task_id, lease.step)).copied().filter(|row| row.lease == Some(lease.nonce))
    }

    /// Ends the attempt if its lease is the running one (and belongs to `holder`, if given).
    fn end_attempt(&mut self, lease: Lease, outcome: &Outcome, holder: Option<Uuid>) -> bool {
        let Some(row) = self.row(lease) else { return false };
        let (Some(worker_id), Some(started_at)) = (row.worker_id, row.started_at) else { return false };
        if holder.is_some_and(|holder| holder != worker_id) {
            return false;
        }
        let Some(task) = self.tasks.get_mut(&lease.task_id) else { return false };
        let Some(template) = task.plan.step(lease.step) else { return false };
        let spent = Spent { charged: unsigned(row.charged), lost: unsigned(row.lost) };
        let verdict = outcome.judge(spent, u16::try_from(template.retry_limit).unwrap_or(u16::MAX));
        let Ok(state) = StepState::InProgress.after(verdict.event) else { return false };
        let attempt = EndedAttempt {
            task_id: lease.task_id,
            step: lease.step,
            template_id: task.row.template_id,
            attempt: row.attempt,
            lease: lease.nonce,
            worker_id,
            outcome: outcome.kind(),
            charged: verdict.charged,
            failure: outcome.failure(),
            retry_after: match outcome {
                Outcome::RetryableError { retry_after, .. } => *retry_after,
                _ => None,
            },
            ready_at: row.ready_at,
            started_at,
        };
        self.live.remove(&(lease.task_id, lease.step));
        self.touched.push(lease.task_id);
        match verdict.event {
            StepEvent::Retry => {
                let mut backoff = template.backoff;
                if matches!(outcome, Outcome::Released { .. }) {
                    backoff = RELEASE_PAUSE;
                }
                self.changes.retries.push(Retry { attempt, backoff });
            }
            StepEvent::GiveBack => {
                self.changes.events.push(Event::of_attempt(EventType::StepRetrying, &attempt));
                let lost = matches!(outcome, Outcome::WorkerLost);
                self.changes.given_back.push(GivenBack { attempt, lost });
            }
            event => {
                let kind = if event == StepEvent::Succeed { EventType::StepCompleted } else { EventType::StepFailed };
                self.changes.events.push(Event::of_attempt(kind, &attempt));
                let result = match outcome {
                    Outcome::Succeeded(json) => Some(json.clone()),
                    _ => None,
                };
                self.end_step(row, state, Some(&attempt), result);
                self.unlock(lease.task_id, lease.step, event);
            }
        }
        true
    }

    fn end_step(&mut self, row: &LiveRow, state: StepState, attempt: Option<&EndedAttempt>, result: Option<String>) {
        self.changes.ended.push(Ended {
            task_id: row.task_id,
            step: row.step,
            lease: row.lease,
            state,
            attempt: row.attempt,
            charged: row.charged + i16::from(attempt.is_some_and(|a| a.charged)),
            result,
            failure: attempt.and_then(|a| a.failure.clone()),
            ready_at: row.ready_at,
            started_at: row.started_at,
        });
    }

    /// Brings the children into play whose last parent this was.
    fn unlock(&mut self, task_id: Uuid, step: i16, event: StepEvent) {
        let Some(task) = self.tasks.get_mut(&task_id) else { return };
        task.changed = true;
        let plan = task.plan;
        for child in task.progress.step_ended(&plan.graph, unsigned(step), event) {
            self.changes.new_live.push(NewLive {
                task_id,
                step: i16::try_from(child).unwrap_or(i16::MAX),
                template_id: task.row.template_id,
                lane_id: plan.lane(child),
                priority: task.row.priority,
                grant: None,
            });
        }
    }

    fn cancel(&mut self, task_id: Uuid, by: &str, reason: &str) -> Result<(), CancelError> {
        let task = self.tasks.get_mut(&task_id).ok_or(CancelError::NotFound(task_id))?;
        if task.progress.state == TaskState::Cancelled {
            return Ok(());
        }
        let state = task.progress.state;
        let after = state.after(TaskEvent::Cancel).map_err(|_| CancelError::Ended(state))?;
        (task.progress.state, task.progress.live, task.changed) = (after, 0, true);
        task.cancelled = Some((by.to_owned(), reason.to_owned()));
        let template_id = task.row.template_id;
        self.touched.push(task_id);
        let rows: Vec<&LiveRow> =
            self.live.range((task_id, i16::MIN)..=(task_id, i16::MAX)).map(|(_, row)| *row).collect();
        for row in rows {
            self.live.remove(&(task_id, row.step));
            let running = row.lease.map(|nonce| Lease { task_id, step: row.step, nonce });
            self.changes.events.push(Event {
                step: Some(row.step),
                attempt: Some(row.attempt),
                worker_id: row.worker_id,
                outcome: running.map(|_| OutcomeKind::Cancelled),
                charged: running.map(|_| false),
                lease: row.lease,
                ready_at: Some(row.ready_at),
                started_at: row.started_at,
                ..Event::of_task(EventType::StepCancelled, template_id, task_id)
            });
            self.end_step(row, StepState::Cancelled, None, None);
            if let Some(lease) = running {
                self.settled.insert(lease, false);
                self.cancelled.push((lease, CancelReason::TaskCancelled));
            }
        }
        self.changes.cancelled_tasks.push(task_id);
        Ok(())
    }

    /// Concludes the tasks and writes down what became of them.
    fn finish(mut self) -> Self {
        for (task_id, task) in &mut self.tasks {
            if !task.changed {
                continue;
            }
            if let Some(event) = task.progress.conclusion(task.plan.template.steps.len())
                && let Ok(after) = task.progress.state.after(event)
            {
                task.progress.state = after;
            }
            let kind = match task.progress.state {
                TaskState::Complete => Some(EventType::TaskCompleted),
                TaskState::Error => Some(EventType::TaskFailed),
                TaskState::Cancelled => Some(EventType::TaskCancelled),
                TaskState::Pending | TaskState::InProgress => None,
            };
            self.changes.events.extend(kind.map(|kind| Event::of_task(kind, task.row.template_id, *task_id)));
            self.changes.tasks.push(TaskUpdate {
                task_id: *task_id,
                state: task.progress.state,
                steps_live: i16::try_from(task.progress.live).unwrap_or(i16::MAX),
                steps_done: task.progress.done.as_bytes().to_vec(),
                failed_step: task.progress.failed_step.and_then(|s| i16::try_from(s).ok()),
                cancelled: task.cancelled.take(),
            });
        }
        self.touched.sort_unstable();
        self.touched.dedup();
        self
    }
}

fn unsigned(n: i16) -> u16 {
    u16::try_from(n).unwrap_or_default()
}
