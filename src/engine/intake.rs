//! Takes submits: checks and judges each against its template (`prepare`), then stores many in one transaction and hands their
//! root steps to workers that are free here. Nothing is parsed or evaluated inside the transaction.

mod batch;
mod prepare;
mod submission;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use self::submission::{IntakeError, Submission, Submitted, Violated};
use self::{
    batch::{
        Group, Verdicts, add, judge, keys_of, keys_to_drop, portions, roots_of, start_claimed,
    },
    prepare::Preparer,
    submission::Prepared,
};
use super::{
    assignment,
    claims::{self, Plans},
    metrics::Loop,
    settle::{SettleQueue, deliver},
    shared::Shared,
};
use crate::engine::hash::{HashMap, HashSet};
use crate::store::{
    StoreError,
    changes::{Changes, NewLive},
    counts::Collision,
    hot::Hot,
    task::Part,
    template::Newest,
};

/// The most submits of one transaction.
const MAX_BATCH: usize = 256;
/// The most submits that wait for one; the next one is refused.
const MAX_QUEUE: usize = 2_048;
/// The first submit of the last batch waited for so long, and more than a batch is left behind it: the queue is as full as it
/// may be, however few wait. Who came on top would not be told before [`SUBMIT_LIMIT`] that it was in vain.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// How long a submit waits while nothing is stored: the database neither answers nor breaks the connection.
const STORE_LIMIT: Duration = Duration::from_millis(2_500);
/// How long a submit waits in a queue that moves.
const SUBMIT_LIMIT: Duration = Duration::from_secs(10);
/// The most bytes of tasks that wait or are in a transaction, in KiB; what comes on top is refused.
const MAX_QUEUE_KIB: usize = 64 << 10;
/// When to try again after a refusal: when the queue that was full is likely to be over. Sooner, those that are refused again
/// would cost more than those that are stored.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// `RETRY_AFTER`, so that not all come back at once.
pub fn retry_after() -> Duration {
    super::peers::jitter(RETRY_AFTER)
}

/// The way into intake.
#[derive(Clone)]
pub struct IntakeQueue {
    sender: mpsc::Sender<Group>,
    weight: Arc<Semaphore>,
    preparer: Preparer,
    stored: Stored,
}

/// How intake gets on.
type Stored = Arc<watch::Sender<Progress>>;

#[derive(Clone, Copy)]
struct Progress {
    /// When a transaction of intake was last done with.
    at: Instant,
    /// How long the first submit of the last batch had waited for it.
    waited: Duration,
}

/// Whether as much waits as can be stored in time.
fn is_behind(waiting: usize, waited: Duration) -> bool {
    waiting > MAX_BATCH && waited > MAX_WAIT
}

impl IntakeQueue {
    /// Checks the submissions and has them stored; returns when they are committed.
    pub async fn submit(
        &self,
        submissions: Vec<Submission>,
    ) -> Result<Vec<Submitted>, IntakeError> {
        // Before anything is looked at: a refusal must cost as little as can be.
        if is_behind(
            MAX_QUEUE - self.sender.capacity(),
            self.stored.borrow().waited,
        ) {
            return Err(IntakeError::Full);
        }
        let kib: usize = submissions
            .iter()
            .map(|s| 1 + (s.context.len() + s.annotations.len()) / 1024)
            .sum();
        let kib = kib.min(MAX_QUEUE_KIB);
        if self.weight.available_permits() < kib || self.sender.capacity() == 0 {
            return Err(if self.sender.is_closed() {
                IntakeError::ShuttingDown
            } else {
                IntakeError::Full
            });
        }
        let submissions: Vec<Arc<Submission>> = submissions.into_iter().map(Arc::new).collect();
        let mut seen = self.preparer.catalog.newest();
        let tasks = match self.preparer.prepare(&submissions).await {
            Err(IntakeError::NoTemplate { .. } | IntakeError::Retired { .. }) => {
                // Perhaps it was registered on another server a moment ago.
                self.preparer
                    .catalog
                    .refresh()
                    .await
                    .map_err(|e| IntakeError::Failed(Arc::new(e)))?;
                seen = self.preparer.catalog.newest();
                self.preparer.prepare(&submissions).await?
            }
            other => other?,
        };
        // What was judged meanwhile held no place.
        let permits = u32::try_from(kib).unwrap_or(u32::MAX);
        let place = Arc::clone(&self.weight)
            .try_acquire_many_owned(permits)
            .map_err(|_| IntakeError::Full)?;
        let room = self.sender.try_reserve().map_err(|error| match error {
            mpsc::error::TrySendError::Full(()) => IntakeError::Full,
            mpsc::error::TrySendError::Closed(()) => IntakeError::ShuttingDown,
        })?;
        let asked = Instant::now();
        let (reply, answer) = oneshot::channel();
        room.send(Group {
            tasks,
            seen,
            reply,
            asked,
            _place: place,
        });
        tokio::select! {
            answer = answer => answer.map_err(|_| IntakeError::ShuttingDown)?,
            waited = self.in_vain() => {
                let error = StoreError::Connection(format!("not confirmed within {waited:?}"));
                Err(IntakeError::Failed(Arc::new(error)))
            }
        }
    }

    /// Prepares a group once more, by the templates of now.
    async fn again(&self, mut group: Group) {
        let prepared = async {
            self.preparer
                .catalog
                .refresh()
                .await
                .map_err(|e| IntakeError::Failed(Arc::new(e)))?;
            group.seen = self.preparer.catalog.newest();
            let submissions: Vec<_> = group
                .tasks
                .iter()
                .map(|task| Arc::clone(&task.submission))
                .collect();
            self.preparer.prepare(&submissions).await
        };
        match prepared.await {
            Ok(tasks) => {
                group.tasks = tasks;
                // Its caller hears of a server that ends by the group's end.
                let _ = self.sender.send(group).await;
            }
            Err(error) => drop(group.reply.send(Err(error))),
        }
    }

    /// Resolves when it makes no sense to wait any longer for a submit of now.
    async fn in_vain(&self) -> Duration {
        let asked = Instant::now();
        let mut until = asked + STORE_LIMIT;
        while until > Instant::now() {
            tokio::time::sleep_until(until).await;
            until = (self.stored.borrow().at + STORE_LIMIT).min(asked + SUBMIT_LIMIT);
        }
        asked.elapsed()
    }
}

/// The intake loop.
pub struct Intake {
    shared: Shared,
    settle: SettleQueue,
    queue: mpsc::Receiver<Group>,
    /// For what has to be prepared again.
    own: IntakeQueue,
    stored: Stored,
    hot: Option<Hot>,
}

impl Intake {
    pub fn new(shared: Shared, settle: SettleQueue) -> (Self, IntakeQueue) {
        let (sender, queue) = mpsc::channel(MAX_QUEUE);
        let weight = Arc::new(Semaphore::new(MAX_QUEUE_KIB));
        let stored = Arc::new(watch::Sender::new(Progress {
            at: Instant::now(),
            waited: Duration::ZERO,
        }));
        let preparer = Preparer::new(&shared);
        let handle = IntakeQueue {
            sender,
            weight,
            preparer,
            stored: Arc::clone(&stored),
        };
        (
            Self {
                shared,
                settle,
                queue,
                own: handle.clone(),
                stored,
                hot: None,
            },
            handle,
        )
    }

    /// Runs until `shutdown`, then stores what is in the queue and ends.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        loop {
            tokio::select! {
                biased;
                n = self.queue.recv_many(&mut batch, MAX_BATCH) => if n == 0 { return },
                () = shutdown.cancelled() => {
                    self.queue.close();
                    if self.queue.recv_many(&mut batch, MAX_BATCH).await == 0 {
                        return;
                    }
                }
            }
            let waited = batch
                .first()
                .map_or(Duration::ZERO, |group| group.asked.elapsed());
            self.stored.send_modify(|progress| progress.waited = waited);
            // Nobody is there any more who would believe in those.
            batch.retain(|group| !group.reply.is_closed());
            self.shared.pulses.beat("intake");
            self.store_all(std::mem::take(&mut batch)).await;
            self.shared.pulses.rest("intake");
        }
    }

    /// Stores the groups or tells their callers why not. Collisions are tried again at once; a database that is away is
    /// the callers' to know, who hear UNAVAILABLE instead of waiting.
    async fn store_all(&mut self, groups: Vec<Group>) {
        const COLLISIONS: usize = 5;
        let mut work = portions(groups);
        let mut collisions = 0;
        while let Some(mut groups) = work.pop() {
            match self.run_once(&mut groups).await {
                Ok(again) => {
                    self.shared.pulses.beat("intake");
                    self.shared.health.database(true);
                    self.stored
                        .send_modify(|progress| progress.at = Instant::now());
                    if !again.is_empty() {
                        work.push(again);
                    }
                }
                Err(error) if self.comes_through(&error) && collisions < COLLISIONS => {
                    collisions += 1;
                    work.push(groups);
                }
                // The one that cannot be stored, or waits for somebody's lock, is found by halving.
                Err(error)
                    if groups.len() > 1
                        && (!error.is_transient() || error.collision().is_some()) =>
                {
                    let half = groups.split_off(groups.len() / 2);
                    work.push(half);
                    work.push(groups);
                }
                Err(error) => {
                    tracing::debug!(%error, groups = groups.len(), "submits could not be stored");
                    let error = Arc::new(error);
                    for group in groups {
                        let _ = group
                            .reply
                            .send(Err(IntakeError::Failed(Arc::clone(&error))));
                    }
                }
            }
        }
    }

    /// Counts a collision, and says whether another try at once makes sense. It does not for a lock: that was waited for.
    fn comes_through(&self, error: &StoreError) -> bool {
        self.shared.db.counts().note(error);
        error.is_transient() && self.hot.is_some() && error.collision() != Some(Collision::Lock)
    }

    /// One transaction. On success `groups` is empty; what comes back has to be looked at again. On failure `groups` is
    /// as it was.
    async fn run_once(&mut self, groups: &mut Vec<Group>) -> Result<Vec<Group>, StoreError> {
        let hot = match self.hot.take() {
            // A connection that broke while nobody used it is no reason to refuse anybody.
            Some(hot) if !hot.is_closed() => hot,
            _ => self.shared.connect().await?,
        };
        let mut result = self.store(&hot, groups, true).await;
        // The last try takes nothing for granted.
        for hand_on in [true, false] {
            if !result.as_ref().is_err_and(StoreError::is_gate) || hot.rollback().await.is_err() {
                break;
            }
            self.shared.refresh_gates().await?;
            result = self.store(&hot, groups, hand_on).await;
        }
        if result.is_err() && (hot.is_closed() || hot.rollback().await.is_err()) {
            return result;
        }
        self.hot = Some(hot);
        result
    }

    #[expect(clippy::too_many_lines, reason = "one transaction in its order")]
    async fn store(
        &self,
        hot: &Hot,
        groups: &mut Vec<Group>,
        hand_on: bool,
    ) -> Result<Vec<Group>, StoreError> {
        let roots = if hand_on {
            roots_of(groups)
        } else {
            BTreeMap::new()
        };
        let mut reservation = self.shared.hub.reserve(&roots);
        let mut passes = self.shared.gates.passes();
        let mut demand = reservation.demand();
        self.shared.gates.admit(&mut demand, &[]);
        let read = hot.begin_intake(&keys_of(groups), &demand).await?;
        if groups.iter().any(|g| g.is_outdated(read.newest)) {
            hot.rollback().await?;
            return Ok(self.prepare_again(groups, read.newest));
        }
        let Verdicts {
            refused,
            known,
            again,
            dropped,
        } = judge(groups, &read);
        let mut changes = Changes {
            dropped_keys: keys_to_drop(groups, &dropped),
            ..Changes::default()
        };
        let mut plans = Plans::default();
        for (_, group) in groups
            .iter()
            .enumerate()
            .filter(|(i, _)| !refused.contains_key(i) && !again.contains(i))
        {
            for task in group
                .tasks
                .iter()
                .filter(|t| !known.contains_key(&t.task_id))
            {
                add(&mut changes, task, read.now);
                plans.insert(task.plan.template_id, Arc::clone(&task.plan));
            }
        }
        plans.extend(
            self.shared
                .catalog
                .readable(read.candidates.iter().map(|c| c.template_id))
                .await?,
        );
        let (claimed, mut wanted) = claims::grant(
            &mut changes,
            &read.candidates,
            &plans,
            &mut reservation,
            &mut passes,
            read.now,
        );
        start_claimed(&mut changes);
        let waits = |live: &&NewLive| live.grant.is_none() && live.is_due();
        let unserved: HashSet<i32> = changes
            .new_live
            .iter()
            .filter(waits)
            .map(|l| l.lane_id)
            .collect();
        changes.notify = self
            .shared
            .peers
            .news(!unserved.is_empty(), false, false, false);
        if changes.is_empty() {
            hot.rollback().await?;
        } else {
            let mut known = self.shared.documents.know(&mut wanted, &changes);
            let mut applied = match hot.commit(&changes, &wanted, read.now).await {
                Ok(applied) => applied,
                Err(error) => {
                    self.settle.uncommitted(&error, &reservation, passes);
                    return Err(error);
                }
            };
            let batch = changes.new_tasks.len();
            self.shared.committed(
                Loop::Intake,
                batch,
                applied.took,
                &changes,
                &plans,
                read.now,
            );
            passes.commit(true, &claims::lost(&changes, &applied.claimed));
            self.shared.events.written();
            self.shared
                .documents
                .keep(&mut known, &mut applied, &changes);
            self.shared.held.keep(&changes, read.now);
            if let Some(next) = changes
                .new_live
                .iter()
                .filter_map(|live| live.not_before)
                .min()
            {
                self.shared
                    .hub
                    .retry_in(next.duration_since(read.now).unwrap_or_default());
            }
            let claimed = claimed.into_iter().chain(applied.claimed).collect();
            for input in deliver(
                assignment::assemble(claimed, &known, &plans, read.now),
                reservation,
            ) {
                let _ = self.settle.push(input).await;
            }
        }
        self.shared.hub.steps_wait(self.shared.gates.open(unserved));
        self.answer(groups, refused, &known, again).await
    }

    /// A template was registered or retired that this server did not know of: "the newest version" may be another one now. The groups that this
    /// is about are prepared again beside the loop and come back as if they were new; the others are what comes back here.
    fn prepare_again(&self, groups: &mut Vec<Group>, newest: Newest) -> Vec<Group> {
        let (outdated, rest): (Vec<Group>, Vec<Group>) = groups
            .drain(..)
            .partition(|group| group.is_outdated(newest));
        let own = self.own.clone();
        tokio::spawn(async move {
            for group in outdated {
                own.again(group).await;
            }
        });
        rest
    }

    /// After the commit, and never before.
    async fn answer(
        &self,
        groups: &mut Vec<Group>,
        mut refused: HashMap<usize, IntakeError>,
        known: &HashMap<Uuid, Uuid>,
        again: HashSet<usize>,
    ) -> Result<Vec<Group>, StoreError> {
        let first: HashMap<Uuid, Submitted> = if known.is_empty() {
            HashMap::default()
        } else {
            self.first_tasks(known).await
        };
        let mut later = Vec::new();
        for (i, group) in groups.drain(..).enumerate() {
            if again.contains(&i) {
                later.push(group);
                continue;
            }
            let answer = match refused.remove(&i) {
                Some(error) => Err(error),
                None => group
                    .tasks
                    .iter()
                    .map(|task| submitted(task, known, &first))
                    .collect(),
            };
            let _ = group.reply.send(answer);
        }
        Ok(later)
    }

    /// What the first submits under used keys were answered.
    async fn first_tasks(&self, known: &HashMap<Uuid, Uuid>) -> HashMap<Uuid, Submitted> {
        let mut first = HashMap::default();
        for task_id in known.values().collect::<HashSet<_>>() {
            let Ok(Some(view)) =
                crate::store::task::get(&self.shared.db, *task_id, false, Part::default()).await
            else {
                continue;
            };
            let Ok(plan) = self.shared.catalog.plan(view.task.template_id).await else {
                continue;
            };
            let submitted = Submitted {
                task_id: *task_id,
                created: false,
                correlation_id: view.task.correlation_id,
                version: plan.template.version.to_string(),
            };
            first.insert(*task_id, submitted);
        }
        first
    }
}

fn submitted(
    task: &Prepared,
    known: &HashMap<Uuid, Uuid>,
    first: &HashMap<Uuid, Submitted>,
) -> Result<Submitted, IntakeError> {
    match known.get(&task.task_id) {
        None => Ok(Submitted {
            task_id: task.task_id,
            created: true,
            correlation_id: task.correlation_id.clone(),
            version: task.plan.template.version.to_string(),
        }),
        Some(owner) => first.get(owner).cloned().ok_or_else(|| {
            let error = StoreError::Connection(
                "the first task of the idempotency key could not be read".into(),
            );
            IntakeError::Failed(Arc::new(error))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_full_when_its_head_waits_too_long_and_more_than_a_batch_is_left() {
        let longer = MAX_WAIT + Duration::from_millis(1);
        assert!(is_behind(MAX_BATCH + 1, longer));
        assert!(
            !is_behind(MAX_BATCH, longer),
            "the next transaction takes them all"
        );
        assert!(!is_behind(MAX_QUEUE, MAX_WAIT));
    }
}
