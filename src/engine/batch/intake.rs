//! The intake loop. Each submit is validated and evaluated against its template first (`prepare`);
//! then many are stored in one transaction, which also assigns root steps to workers with free
//! slots. The transaction parses and evaluates nothing.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::queue::SettleQueue;
use crate::{
    engine::{
        context::EngineContext,
        decide::{
            input::Input,
            submit::{KeyVerdicts, add, judge, keys_of, keys_to_drop, roots_of, start_claimed},
        },
        dispatch::{
            allocator::{Allocation, allocate, lost},
            assignment,
            reservation::deliver,
        },
        hash::{HashMap, HashSet},
        observe::metrics::Loop,
        plan::compiled::Plans,
        submission::{
            group::{Group, portions},
            prepare::Preparer,
            request::{IntakeError, Submission, Submitted},
            validate::Prepared,
        },
        time::jitter,
    },
    store::{
        StoreError,
        collision_metrics::Collision,
        pipeline::{Changes, NewLive, Pipeline},
        task::Part,
        template::Newest,
    },
};

/// Maximum submits per transaction.
const MAX_BATCH: usize = 256;
/// Maximum submits in the queue; further ones are rejected.
const MAX_QUEUE: usize = 2_048;
/// Maximum queueing delay. If the head of the last batch has waited longer and more than a batch is
/// queued, new submits are rejected: they would time out after [`SUBMIT_LIMIT`] anyway.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// Maximum wait of a submit while no transaction of intake ends: the database neither answers nor
/// breaks the connection.
const STORE_LIMIT: Duration = Duration::from_millis(2_500);
/// Maximum wait of a submit in a queue that moves.
const SUBMIT_LIMIT: Duration = Duration::from_secs(10);
/// Maximum bytes of tasks in the queue or in a transaction, in KiB; further ones are rejected.
const MAX_QUEUE_KIB: usize = 64 << 10;
/// The `RetryInfo` of a rejection: about the time that a full queue takes to drain. Earlier retries
/// would be rejected again, and would cost more than the submits that are stored.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// `RETRY_AFTER` with jitter, so that clients do not all return at once.
pub fn retry_after() -> Duration {
    jitter(RETRY_AFTER)
}

/// The sending end of the intake queue. Cheap to clone.
#[derive(Clone)]
pub struct IntakeQueue {
    sender: mpsc::Sender<Group>,
    weight: Arc<Semaphore>,
    preparer: Preparer,
    stored: Stored,
}

/// The progress of the intake loop, shared with the callers.
type Stored = Arc<watch::Sender<IntakeProgress>>;

#[derive(Clone, Copy)]
struct IntakeProgress {
    /// The end of the last transaction.
    at: Instant,
    /// The queueing delay of the first submit of the last batch.
    waited: Duration,
}

/// Whether the queue holds more than can be stored in time.
fn is_behind(waiting: usize, waited: Duration) -> bool {
    waiting > MAX_BATCH && waited > MAX_WAIT
}

impl IntakeQueue {
    /// Validates the submissions and has them stored. Returns after the commit.
    pub async fn submit(
        &self,
        submissions: Vec<Submission>,
    ) -> Result<Vec<Submitted>, IntakeError> {
        // The check of the load comes first, so that a rejection costs next to nothing.
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
        // Read before the versions are resolved: a template registered in between then counts as
        // unknown, and the group is prepared again.
        let mut seen = self.preparer.templates.newest();
        let tasks = match self.preparer.prepare(&submissions).await {
            Err(IntakeError::NoTemplate { .. } | IntakeError::Retired { .. }) => {
                // The template may have been registered or restored on another server a moment ago.
                self.preparer
                    .templates
                    .refresh()
                    .await
                    .map_err(|e| IntakeError::Failed(Arc::new(e)))?;
                seen = self.preparer.templates.newest();
                self.preparer.prepare(&submissions).await?
            }
            other => other?,
        };
        // Capacity is taken only now, so that submissions under evaluation occupy none of the
        // queue.
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

    /// Prepares a group again with refreshed templates.
    async fn again(&self, mut group: Group) {
        let prepared = async {
            self.preparer
                .templates
                .refresh()
                .await
                .map_err(|e| IntakeError::Failed(Arc::new(e)))?;
            group.seen = self.preparer.templates.newest();
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
                // If the queue is closed, the group is dropped, and its caller gets `ShuttingDown`.
                let _ = self.sender.send(group).await;
            }
            Err(error) => drop(group.reply.send(Err(error))),
        }
    }

    /// Resolves when a submit made now has waited for too long: `STORE_LIMIT` since the last
    /// transaction ended, or `SUBMIT_LIMIT` in all.
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
    context: EngineContext,
    settle: SettleQueue,
    queue: mpsc::Receiver<Group>,
    /// For groups that have to be prepared again.
    own: IntakeQueue,
    stored: Stored,
    hot: Option<Pipeline>,
}

impl Intake {
    pub fn new(context: EngineContext, settle: SettleQueue) -> (Self, IntakeQueue) {
        let (sender, queue) = mpsc::channel(MAX_QUEUE);
        let weight = Arc::new(Semaphore::new(MAX_QUEUE_KIB));
        let stored = Arc::new(watch::Sender::new(IntakeProgress {
            at: Instant::now(),
            waited: Duration::ZERO,
        }));
        let preparer = Preparer::new(&context);
        let handle = IntakeQueue {
            sender,
            weight,
            preparer,
            stored: Arc::clone(&stored),
        };
        (
            Self {
                context,
                settle,
                queue,
                own: handle.clone(),
                stored,
                hot: None,
            },
            handle,
        )
    }

    /// Runs until `shutdown`, then stores the queued groups and returns.
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
            // The callers of these groups have given up, so no reply would reach them.
            batch.retain(|group| !group.reply.is_closed());
            self.context.pulses.beat("intake");
            self.store_all(std::mem::take(&mut batch)).await;
            self.context.pulses.rest("intake");
        }
    }

    /// Stores the groups, or returns the error to their callers. Collisions are retried at once.
    /// While the database is away, callers get UNAVAILABLE instead of waiting.
    async fn store_all(&mut self, groups: Vec<Group>) {
        const COLLISIONS: usize = 5;
        let mut work = portions(groups);
        let mut collisions = 0;
        while let Some(mut groups) = work.pop() {
            match self.run_once(&mut groups).await {
                Ok(again) => {
                    self.context.pulses.beat("intake");
                    self.context.health.database(true);
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
                // Halving isolates the group that cannot be stored or that waits for a lock.
                Err(error)
                    if groups.len() > 1
                        && (!error.is_transient() || error.collision().is_some()) =>
                {
                    let half = groups.split_off(groups.len() / 2);
                    work.push(half);
                    work.push(groups);
                }
                // The database is away, or the error is permanent: the callers get it at once.
                Err(error) => {
                    tracing::debug!(%error, groups = groups.len(), "submits cannot be stored");
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

    /// Counts a collision. Returns whether to retry at once: not after a lock time-out, which has
    /// waited already.
    fn comes_through(&self, error: &StoreError) -> bool {
        self.context.db.collisions().note(error);
        error.is_transient() && self.hot.is_some() && error.collision() != Some(Collision::Lock)
    }

    /// Runs one transaction, with up to three tries. On success `groups` is empty, and the returned
    /// groups have to be stored next. On failure `groups` is unchanged.
    async fn run_once(&mut self, groups: &mut Vec<Group>) -> Result<Vec<Group>, StoreError> {
        let hot = match self.hot.take() {
            // A connection that broke while it was idle is replaced instead of failing the batch.
            Some(hot) if !hot.is_closed() => hot,
            _ => self.context.connect().await?,
        };
        let mut result = self.store(&hot, groups, true).await;
        // A stale admission version: refresh and retry. The last try claims nothing, so it depends
        // on no version.
        for hand_on in [true, false] {
            if !result.as_ref().is_err_and(StoreError::is_stale_admission)
                || hot.rollback().await.is_err()
            {
                break;
            }
            self.context.refresh_admission().await?;
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
        hot: &Pipeline,
        groups: &mut Vec<Group>,
        hand_on: bool,
    ) -> Result<Vec<Group>, StoreError> {
        // 1. Slots and quota are reserved before the transaction, so that no other loop can use
        //    them.
        let roots = if hand_on {
            roots_of(groups)
        } else {
            BTreeMap::new()
        };
        let mut reservation = self.context.registry.reserve(&roots);
        let mut capacity = self.context.admission.reserve();
        let mut demand = reservation.demand();
        self.context.admission.admit(&mut demand, &[]);
        // 2. The first round trip: takes idempotency keys, reads the newest template ids and scans
        //    the queue in the demanded lanes.
        let read = hot.begin_intake(&keys_of(groups), &demand).await?;
        if groups.iter().any(|g| g.is_outdated(read.newest)) {
            // The rollback also releases the keys.
            hot.rollback().await?;
            return Ok(self.prepare_again(groups, read.newest));
        }
        // 3. The rows of the new tasks, without those of refused, repeated or postponed groups.
        let KeyVerdicts {
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
            self.context
                .templates
                .readable(read.candidates.iter().map(|c| c.template_id))
                .await?,
        );
        // 4. Claims. `start_claimed` follows, as only `allocate` decides which roots start at once.
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
        start_claimed(&mut changes);
        let waits = |live: &&NewLive| live.grant.is_none() && live.is_due();
        let unserved: HashSet<i32> = changes
            .new_live
            .iter()
            .filter(waits)
            .map(|l| l.lane_id)
            .collect();
        changes.notify = self
            .context
            .membership
            .payload(!unserved.is_empty(), false, false, false);
        // 5. The second round trip: all writes and the `COMMIT`. Nothing leaves this server before
        //    it.
        if changes.is_empty() {
            hot.rollback().await?;
        } else {
            let mut known = self.context.payloads.lookup(&mut wanted, &changes);
            let mut applied = match hot.commit(&changes, &wanted, read.now).await {
                Ok(applied) => applied,
                Err(error) => {
                    // A commit of uncertain outcome may have made the claims that the reservation
                    // lists.
                    self.settle.commit_failed(&error, &reservation, capacity);
                    return Err(error);
                }
            };
            let batch = changes.new_tasks.len();
            self.context.committed(
                Loop::Intake,
                batch,
                applied.took,
                &changes,
                &plans,
                read.now,
            );
            // 6. Bookkeeping before the assignments leave: an answer must find its attempt counted
            //    against the quota and in the attempt cache.
            capacity.commit(true, &lost(&changes, &applied.claimed));
            self.context.events.written();
            self.context
                .payloads
                .update(&mut known, &mut applied, &changes);
            self.context.attempts.update(&changes, read.now);
            if let Some(next) = changes
                .new_live
                .iter()
                .filter_map(|live| live.not_before)
                .min()
            {
                self.context
                    .retry_timer
                    .fire_in(next.duration_since(read.now).unwrap_or_default());
            }
            let claimed = claimed.into_iter().chain(applied.claimed).collect();
            // Assignments leave only now, after the commit.
            for (lease, worker_id) in deliver(
                assignment::assemble(claimed, &known, &plans, read.now),
                reservation,
            ) {
                let _ = self.settle.push(Input::undelivered(lease, worker_id)).await;
            }
        }
        // 7. Lanes with unclaimed steps become active, unless their service admits none: its
        //    opening does that later. Then the replies.
        self.context
            .registry
            .mark_active(self.context.admission.admitted(unserved));
        self.answer(groups, refused, &known, again).await
    }

    /// Handles a template registered or retired on another server meanwhile, as "the newest
    /// version" may be another one. Groups affected by it are prepared again outside the loop and
    /// then queued again; the others are returned.
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

    /// Replies to the callers; called only after the commit. Returns the groups to try again.
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

    /// The tasks that the first submits under these used keys created.
    async fn first_tasks(&self, known: &HashMap<Uuid, Uuid>) -> HashMap<Uuid, Submitted> {
        let mut first = HashMap::default();
        for task_id in known.values().collect::<HashSet<_>>() {
            let Ok(Some(view)) =
                crate::store::task::get(&self.context.db, *task_id, false, Part::default()).await
            else {
                continue;
            };
            let Ok(plan) = self.context.templates.plan(view.task.template_id).await else {
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
                "the first task of the idempotency key cannot be read".into(),
            );
            IntakeError::Failed(Arc::new(error))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_is_full_if_its_head_waits_too_long_with_more_than_a_batch() {
        let longer = MAX_WAIT + Duration::from_millis(1);
        assert!(is_behind(MAX_BATCH + 1, longer));
        assert!(
            !is_behind(MAX_BATCH, longer),
            "the next transaction takes them all"
        );
        assert!(!is_behind(MAX_QUEUE, MAX_WAIT));
    }
}
