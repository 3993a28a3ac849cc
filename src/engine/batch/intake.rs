//! Intake: stores submits, and assigns their root steps to workers with free slots. Each submit is
//! validated and evaluated against its template before (`submission`); nothing is parsed or evaluated
//! inside the transaction.

use std::{collections::BTreeMap, sync::Arc};

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    kind::{Batch, Decided, Read, Reading},
    policy::Inputs,
};
use crate::{
    engine::{
        context::EngineContext,
        decide::submit::{KeyVerdicts, add, judge, keys_of, keys_to_drop, roots_of},
        dispatch::reservation::SlotReservation,
        hash::{HashMap, HashSet},
        loops::Loops,
        observe::metrics::Loop,
        submission::{
            group::{Group, portions},
            prepare::Preparer,
            queue::{IntakeQueue, MAX_BATCH},
            request::{IntakeError, Submitted},
            validate::Prepared,
        },
    },
    store::{
        StoreError,
        pipeline::{Changes, IntakeRead, LaneDemand, Pipeline},
        task::Part,
        template::Newest,
    },
};

/// The batches of intake.
pub struct Intake {
    context: EngineContext,
    queue: mpsc::Receiver<Group>,
    /// For groups that have to be prepared again.
    own: IntakeQueue,
    loops: Loops,
}

impl Intake {
    pub fn new(context: EngineContext, loops: Loops) -> (Self, IntakeQueue) {
        let (own, queue) = IntakeQueue::new(Preparer::new(&context));
        let intake = Self {
            context,
            queue,
            own: own.clone(),
            loops,
        };
        (intake, own)
    }

    /// Handles a template registered or retired on another server meanwhile, as "the newest
    /// version" may be another one. Groups affected by it are prepared again outside the loop and
    /// then queued again; the others are returned.
    fn prepare_again(&self, groups: &mut Vec<Group>, newest: Newest) -> Vec<Group> {
        let (outdated, rest): (Vec<Group>, Vec<Group>) = groups
            .drain(..)
            .partition(|group| group.is_outdated(newest));
        let own = self.own.clone();
        self.loops.spawn(async move {
            for group in outdated {
                own.again(group).await;
            }
        });
        rest
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

impl Batch for Intake {
    type Input = Group;
    type Rows = IntakeRead;
    type Replies = KeyVerdicts;

    const LOOP: Loop = Loop::Intake;
    const INPUTS: Inputs = Inputs::Returned;

    async fn gather(&mut self, shutdown: &CancellationToken) -> Option<Vec<Group>> {
        let mut batch = Vec::new();
        tokio::select! {
            biased;
            n = self.queue.recv_many(&mut batch, MAX_BATCH) => if n == 0 { return None },
            () = shutdown.cancelled() => {
                self.queue.close();
                if self.queue.recv_many(&mut batch, MAX_BATCH).await == 0 {
                    return None;
                }
            }
        }
        let waited = batch.first().map(|group| group.asked.elapsed());
        self.own
            .progress()
            .send_modify(|progress| progress.waited = waited.unwrap_or_default());
        // The callers of these groups have given up, so no reply would reach them.
        batch.retain(|group| !group.reply.is_closed());
        Some(batch)
    }

    fn split(&self, groups: Vec<Group>) -> Vec<Vec<Group>> {
        portions(groups)
    }

    fn wants(&self, groups: &[Group]) -> BTreeMap<i32, usize> {
        roots_of(groups)
    }

    fn demand(&self, slots: &SlotReservation, _groups: &mut [Group]) -> Vec<LaneDemand> {
        let mut demand = slots.demand();
        self.context.admission.admit(&mut demand, &[]);
        demand
    }

    /// Takes the idempotency keys, and reads the newest template ids.
    async fn read(
        &self,
        hot: &Pipeline,
        groups: &mut Vec<Group>,
        demand: Vec<LaneDemand>,
    ) -> Result<Reading<IntakeRead, Group>, StoreError> {
        let mut read = hot.begin_intake(&keys_of(groups), &demand).await?;
        if groups.iter().any(|group| group.is_outdated(read.newest)) {
            // The rollback also releases the keys.
            hot.rollback().await?;
            return Ok(Reading::Ended(self.prepare_again(groups, read.newest)));
        }
        let queued = read.candidates.iter().map(|c| c.template_id);
        let mut plans = self.context.templates.readable(queued).await?;
        for task in groups.iter().flat_map(|group| &group.tasks) {
            plans.insert(task.plan.template_id, Arc::clone(&task.plan));
        }
        Ok(Reading::Rows(Read {
            candidates: std::mem::take(&mut read.candidates),
            plans,
            now: read.now,
            is_cached: false,
            has_written: false,
            rows: read,
        }))
    }

    /// The rows of the new tasks, without those of refused, repeated or postponed groups.
    fn decide(&self, read: &Read<IntakeRead>, groups: &[Group]) -> Decided<KeyVerdicts> {
        let verdicts = judge(groups, &read.rows);
        let mut changes = Changes {
            dropped_keys: keys_to_drop(groups, &verdicts.dropped),
            ..Changes::default()
        };
        for (i, group) in groups.iter().enumerate() {
            if verdicts.refused.contains_key(&i) || verdicts.again.contains(&i) {
                continue;
            }
            let is_new = |task: &&Prepared| !verdicts.known.contains_key(&task.task_id);
            for task in group.tasks.iter().filter(is_new) {
                add(&mut changes, task, read.now);
            }
        }
        Decided::of(changes, verdicts)
    }

    fn size(_inputs: usize, changes: &Changes, _claimed: usize) -> usize {
        changes.new_tasks.len()
    }

    /// Replies to the callers. Returns the groups to try again.
    async fn reply(
        &mut self,
        groups: Vec<Group>,
        verdicts: KeyVerdicts,
        _claimed: usize,
    ) -> Vec<Group> {
        let KeyVerdicts {
            mut refused,
            known,
            again,
            ..
        } = verdicts;
        let first = if known.is_empty() {
            HashMap::default()
        } else {
            self.first_tasks(&known).await
        };
        let mut later = Vec::new();
        for (i, group) in groups.into_iter().enumerate() {
            if again.contains(&i) {
                later.push(group);
                continue;
            }
            let answer = match refused.remove(&i) {
                Some(error) => Err(error),
                None => group
                    .tasks
                    .iter()
                    .map(|task| submitted(task, &known, &first))
                    .collect(),
            };
            let _ = group.reply.send(answer);
        }
        later
    }

    fn succeeded(&mut self) {
        self.own
            .progress()
            .send_modify(|progress| progress.at = Instant::now());
    }

    /// While the database is away, callers get UNAVAILABLE instead of waiting.
    fn fail(&mut self, groups: Vec<Group>, error: StoreError) -> Vec<Group> {
        tracing::debug!(%error, groups = groups.len(), "submits cannot be stored");
        let error = Arc::new(error);
        for group in groups {
            let _ = group
                .reply
                .send(Err(IntakeError::Failed(Arc::clone(&error))));
        }
        Vec::new()
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
