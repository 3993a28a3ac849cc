//! The second round trip of a transaction: all its writes, and the `COMMIT`.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant, SystemTime},
};

use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::{
    Changes, Claimed, Pipeline, TaskInput, WantedInputs,
    connection::{RoundTrip, seconds},
    statement::{
        admission::{LockedShares, SpentProbes},
        claim::{Claims, claimed},
        deadlines::{Deadlines, DroppedDeadlines},
        end_steps::EndedSteps,
        give_back::GivenBackSteps,
        inputs::{WantedResults, WantedTasks, result_input, task_input},
        insert_events::Events,
        insert_live::NewLiveSteps,
        insert_tasks::NewTasks,
        keys::DroppedKeys,
        late_results::LateResults,
        mark::Marks,
        pause_tasks::TaskPauses,
        plan::Plans,
        reopen::ReopenedSteps,
        retry::Retries,
        set_steps::SetSteps,
        throttle::Throttles,
        update_tasks::UpdatedTasks,
    },
};
use crate::store::StoreError;

/// The answer to a commit.
#[derive(Debug, Default)]
pub struct Applied {
    /// The transaction's time, if it updated a task or the caller supplied one.
    pub now: Option<SystemTime>,
    /// The claims of queued steps that succeeded.
    pub claimed: Vec<Claimed>,
    pub task_inputs: Vec<TaskInput>,
    /// (task, step, JSON)
    pub results: Vec<(Uuid, i16, String)>,
    /// Time until the first of the retries written here is due.
    pub next_retry: Option<Duration>,
    /// From the first write to the answer to the commit.
    pub took: Duration,
}

impl Pipeline {
    /// Like [`Self::commit`], for changes based on cached state without a lock; it also begins the
    /// transaction. An error for which [`StoreError::is_expectation`] is true means that the cached
    /// state was stale.
    pub async fn commit_at_once(
        &self,
        changes: &Changes,
        inputs: &WantedInputs,
    ) -> Result<Applied, StoreError> {
        self.write(changes, inputs, None).await
    }

    /// Writes all changes and commits, in one round trip. On an error nothing was written, except
    /// that a connection lost before the answer leaves it unknown whether the commit took place.
    pub async fn commit(
        &self,
        changes: &Changes,
        inputs: &WantedInputs,
        now: SystemTime,
    ) -> Result<Applied, StoreError> {
        self.write(changes, inputs, Some(now)).await
    }

    /// Sends all writes in lock order, and the `COMMIT` last. Without `now` it also begins the
    /// transaction, and the time of the changes is that of its `BEGIN`, which is later than every
    /// commit that the caller knows of.
    async fn write(
        &self,
        changes: &Changes,
        inputs: &WantedInputs,
        now: Option<SystemTime>,
    ) -> Result<Applied, StoreError> {
        let s = &self.statements;
        let lists = Encoded::of(changes, inputs);
        let mut p = if now.is_none() {
            self.transaction()
        } else {
            RoundTrip::new()
        };
        p.add_some(&s.insert_tasks, lists.new_tasks.params(&[&now]));
        p.add_some(&s.drop_keys, lists.dropped_keys.params(&[]));
        p.add_some(
            &s.end_steps,
            lists
                .ended
                .params(&[&now, &lists.ended_count, &lists.ended_whole]),
        );
        let retries = p.add_some(&s.retry, lists.retries.params(&[&now, &lists.retry_count]));
        p.add_some(
            &s.give_back,
            lists.given_back.params(&[&now, &lists.given_back_count]),
        );
        p.add_some(&s.set_steps, lists.set_steps.params(&[&now]));
        p.add_some(&s.reopen, lists.reopened.params(&[]));
        let admissions: [&(dyn ToSql + Sync); 3] = [&now, &lists.services, &lists.versions];
        p.add_some(&s.insert_live, lists.new_live.params(&admissions));
        let tasks = p.add_some(
            &s.update_tasks,
            lists.tasks.params(&[&now, &lists.task_count]),
        );
        let claims = p.add_some(&s.claim, lists.claims.params(&admissions));
        p.add_some(&s.pause_tasks, lists.task_pauses.params(&[&now]));
        p.add_some(&s.mark, lists.marks.params(&[]));
        p.add_some(&s.plan, lists.planned.params(&[]));
        p.add_some(&s.set_deadlines, lists.deadlines.params(&[]));
        p.add_some(&s.drop_deadlines, lists.expired.params(&[]));
        p.add_some(&s.insert_events, lists.events.params(&[&now]));
        // After the events that end the attempts: the statement looks those events up.
        p.add_some(&s.late_results, lists.late.params(&[&now]));
        p.add_some(&s.throttle, lists.throttles.params(&[&now]));
        p.add_some(&s.lock_shares, lists.locked_shares.params(&[]));
        p.add_some(&s.spend_probes, lists.spent_probes.params(&[]));
        let task_inputs = p.add_some(&s.task_inputs, lists.task_inputs.params(&[]));
        let results = p.add_some(&s.result_inputs, lists.result_inputs.params(&[]));
        if let Some(payload) = &changes.notify {
            p.add_some(&s.notify, Some(vec![&self.channel, payload]));
        }
        p.add(&s.commit, vec![]);
        let sent = Instant::now();
        let answers = p.run(&self.client).await;
        // Every statement has an answer, also the COMMIT, so no transaction is open.
        if !matches!(answers, Err(StoreError::Connection(_))) {
            self.open.store(false, Ordering::Relaxed);
        }
        let answers = answers?;
        Ok(Applied {
            now: now.or_else(|| answers.of(tasks).first().map(|row| row.get(1))),
            claimed: answers.of(claims).iter().map(claimed).collect(),
            task_inputs: answers.of(task_inputs).iter().map(task_input).collect(),
            results: answers.of(results).iter().map(result_input).collect(),
            next_retry: answers
                .of(retries)
                .first()
                .and_then(|row| row.get::<_, Option<f64>>(1))
                .map(seconds),
            took: sent.elapsed(),
        })
    }
}

/// The lists of one transaction as arrays.
struct Encoded<'a> {
    new_tasks: NewTasks<'a>,
    dropped_keys: DroppedKeys<'a>,
    ended: EndedSteps<'a>,
    ended_count: i64,
    /// The tasks of the steps that end without a lease: each of them ends with all its rows in
    /// play.
    ended_whole: Vec<Uuid>,
    retries: Retries<'a>,
    retry_count: i64,
    given_back: GivenBackSteps<'a>,
    given_back_count: i64,
    set_steps: SetSteps<'a>,
    reopened: ReopenedSteps<'a>,
    new_live: NewLiveSteps<'a>,
    claims: Claims<'a>,
    /// The services of the claims, and their known admission versions.
    services: Vec<i32>,
    versions: Vec<i64>,
    locked_shares: LockedShares<'a>,
    spent_probes: SpentProbes<'a>,
    throttles: Throttles<'a>,
    tasks: UpdatedTasks<'a>,
    task_count: i64,
    task_pauses: TaskPauses<'a>,
    marks: Marks<'a>,
    planned: Plans<'a>,
    deadlines: Deadlines<'a>,
    expired: DroppedDeadlines<'a>,
    late: LateResults<'a>,
    events: Events<'a>,
    task_inputs: WantedTasks<'a>,
    result_inputs: WantedResults<'a>,
}

impl<'a> Encoded<'a> {
    fn of(changes: &'a Changes, inputs: &'a WantedInputs) -> Self {
        let shares = || changes.admissions.iter().filter_map(|a| a.share.as_ref());
        Self {
            new_tasks: changes.new_tasks.iter().collect(),
            dropped_keys: changes.dropped_keys.iter().collect(),
            ended: changes.ended.iter().collect(),
            ended_count: count(&changes.ended),
            ended_whole: ended_whole(changes),
            retries: changes.retries.iter().collect(),
            retry_count: count(&changes.retries),
            given_back: changes.given_back.iter().collect(),
            given_back_count: count(&changes.given_back),
            set_steps: changes.set_steps.iter().collect(),
            reopened: changes.reopened.iter().collect(),
            new_live: changes.new_live.iter().collect(),
            claims: changes.claims.iter().collect(),
            services: changes.admissions.iter().map(|a| a.service_id).collect(),
            versions: changes.admissions.iter().map(|a| a.version).collect(),
            locked_shares: shares().filter(|share| share.spent == 0).collect(),
            spent_probes: shares().filter(|share| share.spent > 0).collect(),
            throttles: changes.throttles.iter().collect(),
            tasks: changes.tasks.iter().collect(),
            task_count: count(&changes.tasks),
            task_pauses: changes.task_pauses.iter().collect(),
            marks: changes.marks.iter().collect(),
            planned: changes.planned.iter().collect(),
            deadlines: changes
                .new_tasks
                .iter()
                .filter(|t| t.has_deadline())
                .collect(),
            expired: changes.expired.iter().collect(),
            late: changes.late.iter().collect(),
            events: changes.events.iter().collect(),
            task_inputs: inputs.tasks.iter().collect(),
            result_inputs: inputs.results.iter().collect(),
        }
    }
}

fn ended_whole(changes: &Changes) -> Vec<Uuid> {
    let whole = changes.ended.iter().filter(|ended| ended.lease.is_none());
    whole.map(|ended| ended.task_id).collect()
}

fn count<T>(list: &[T]) -> i64 {
    i64::try_from(list.len()).unwrap_or(i64::MAX)
}
