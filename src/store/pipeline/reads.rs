//! The first round trip of a transaction: it locks and reads every row that the decision needs. Also
//! the reads outside a transaction.

use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::{
    Applied, Candidate, EndedRow, KeyRow, LaneDemand, LiveRow, Pipeline, TaskRow, WantedInputs,
    connection::{ANSWER_TIMEOUT, RoundTrip, in_time, seconds},
    statement::{
        candidates::{Lanes, candidate},
        ends::{PastLeases, ended_row, past_outcome},
        inputs::{WantedResults, WantedTasks, result_input, task_input},
        keys::{ReadKeys, TakenKeys, key_row},
        lock_live::{Leases, live_row},
        lock_tasks::{locked_at, task_row},
        newest_template::newest,
        retries_due::MAX_PROMOTED,
    },
};
use crate::{
    domain::{attempt::OutcomeKind, lease::Lease},
    store::{StoreError, template::Newest},
};

/// The rows that the settle loop works on.
#[derive(Debug)]
pub struct SettleRead {
    /// The rows of the requested leases, and all rows of the tasks that have an order.
    pub live: Vec<LiveRow>,
    /// All ended steps of the tasks that have an order.
    pub ended: Vec<EndedRow>,
    pub tasks: Vec<TaskRow>,
    /// Not locked, so another claim may come first.
    pub candidates: Vec<Candidate>,
    /// The database's time; the epoch when there is no task, and so nothing to time.
    pub now: SystemTime,
}

/// The rows that the dispatch loop works on.
#[derive(Debug)]
pub struct DispatchRead {
    /// Locked.
    pub candidates: Vec<Candidate>,
    /// The lanes of the promoted retries; a lane may occur several times.
    pub promoted: Vec<i32>,
    pub now: SystemTime,
    /// Time until the next retry is due.
    pub next_retry: Option<Duration>,
}

/// The rows that intake works on.
#[derive(Debug)]
pub struct IntakeRead {
    /// The newest template and the newest change of one; a number above the caller's means that its
    /// cached "newest version" is stale.
    pub newest: Newest,
    /// The owner of each key: a task of this transaction or of an earlier submit.
    pub keys: Vec<KeyRow>,
    pub candidates: Vec<Candidate>,
    pub now: SystemTime,
}

impl Pipeline {
    /// Begins a transaction and locks the rows that the leases and the tasks name: queue rows
    /// first, then task rows, each in the order of their ids. Every writer keeps this order, so two
    /// transactions cannot deadlock.
    pub async fn begin_settle(
        &self,
        leases: &[Lease],
        tasks: &[Uuid],
        ordered: &[Uuid],
        lanes: &[LaneDemand],
    ) -> Result<SettleRead, StoreError> {
        let s = &self.statements;
        let (leases, lanes): (Leases<'_>, Lanes<'_>) =
            (leases.iter().collect(), lanes.iter().collect());
        let mut p = self.transaction();
        let live = p.add_some(&s.lock_leases, leases.params(&[]));
        let before = (!ordered.is_empty()).then(|| p.add(&s.lock_tasks_live, vec![&ordered]));
        // The peek precedes the clock of the locks, so it returns only rows that were committed
        // before that time.
        let peek = p.add_some(&s.peek, lanes.params(&[]));
        let tasks = p.add(&s.lock_tasks, vec![&tasks]);
        // The queue is read a second time: while the task is locked, no further step of it can come
        // into play, so this read also returns the steps that did between the first read and the lock.
        let after = before
            .is_some()
            .then(|| p.add(&s.lock_tasks_live, vec![&ordered]));
        let ends = before
            .is_some()
            .then(|| p.add(&s.past_ends, vec![&ordered]));
        // The second read may return attempts that started after the clock of the task locks, so
        // the transaction's time is read again.
        let clock = after.is_some().then(|| p.add(&s.clock, vec![]));
        let answers = p.run(&self.client).await?;
        let live = answers
            .of(live)
            .iter()
            .chain(answers.of(after))
            .map(live_row)
            .collect::<Result<_, _>>()?;
        let tasks = &answers[tasks];
        Ok(SettleRead {
            live,
            ended: answers
                .of(ends)
                .iter()
                .map(ended_row)
                .collect::<Result<_, _>>()?,
            tasks: tasks.iter().map(task_row).collect::<Result<_, _>>()?,
            candidates: answers.of(peek).iter().map(candidate).collect(),
            now: match clock {
                Some(clock) => answers[clock][0].get(0),
                None => tasks.last().map_or(SystemTime::UNIX_EPOCH, locked_at),
            },
        })
    }

    /// Begins a transaction, takes the free idempotency keys (the caller has sorted them), and
    /// reads the older ready steps that have to be assigned before the new ones.
    pub async fn begin_intake(
        &self,
        keys: &[KeyRow],
        lanes: &[LaneDemand],
    ) -> Result<IntakeRead, StoreError> {
        let s = &self.statements;
        let (taken, read): (TakenKeys<'_>, ReadKeys<'_>) =
            (keys.iter().collect(), keys.iter().collect());
        let lanes: Lanes<'_> = lanes.iter().collect();
        let mut p = self.transaction();
        p.add_some(&s.take_keys, taken.params(&[]));
        let owners = p.add_some(&s.read_keys, read.params(&[]));
        let peek = p.add_some(&s.peek, lanes.params(&[]));
        let template = p.add(&s.newest_template, vec![]);
        let answers = p.run(&self.client).await?;
        let (newest, now) = newest(&answers[template][0]);
        Ok(IntakeRead {
            newest,
            keys: answers.of(owners).iter().map(key_row).collect(),
            candidates: answers.of(peek).iter().map(candidate).collect(),
            now,
        })
    }

    /// Begins a transaction, marks due retries as claimable, and locks the first steps of each
    /// lane.
    pub async fn begin_dispatch(&self, lanes: &[LaneDemand]) -> Result<DispatchRead, StoreError> {
        let s = &self.statements;
        let lanes: Lanes<'_> = lanes.iter().collect();
        let mut p = self.transaction();
        let promoted = p.add(&s.promote, vec![&MAX_PROMOTED]);
        let ready = p.add_some(&s.lock_ready, lanes.params(&[]));
        let next = p.add(&s.next_retry, vec![]);
        let clock = p.add(&s.clock, vec![]);
        let answers = p.run(&self.client).await?;
        Ok(DispatchRead {
            candidates: answers.of(ready).iter().map(candidate).collect(),
            promoted: answers[promoted].iter().map(|row| row.get(0)).collect(),
            now: answers[clock][0].get(0),
            next_retry: answers[next].first().map(|row| seconds(row.get(0))),
        })
    }

    /// Whether a claim in one of these lanes could succeed, now or once the due retries are
    /// promoted, and the time until the next retry is due.
    pub async fn anything_due(
        &self,
        lanes: &[LaneDemand],
    ) -> Result<(bool, Option<Duration>), StoreError> {
        let (lane_ids, bytes): (Vec<i32>, Vec<i32>) =
            lanes.iter().map(|lane| (lane.lane_id, lane.bytes)).unzip();
        let statement = &self.statements.anything_due;
        let row = in_time(
            ANSWER_TIMEOUT,
            self.client.query_one(statement, &[&lane_ids, &bytes]),
        )
        .await?;
        let next: Option<f64> = row.get(1);
        Ok((
            row.get::<_, bool>(0) || next.is_some_and(|s| s <= 0.0),
            next.map(seconds),
        ))
    }

    /// The outcomes of attempts whose leases are no longer in the queue, for those in the history.
    pub async fn past_outcomes(
        &self,
        leases: &[Lease],
    ) -> Result<Vec<(Lease, OutcomeKind)>, StoreError> {
        let leases: PastLeases<'_> = leases.iter().collect();
        let Some(params) = leases.params(&[]) else {
            return Ok(Vec::new());
        };
        let statement = &self.statements.past_outcomes;
        let rows = in_time(ANSWER_TIMEOUT, self.client.query(statement, &params)).await?;
        Ok(rows.iter().filter_map(past_outcome).collect())
    }

    /// Documents of tasks, and results, that a decision needs. Committed documents never change, so
    /// the read is valid inside or outside a transaction.
    pub async fn documents(&self, wanted: &WantedInputs) -> Result<Applied, StoreError> {
        let s = &self.statements;
        let tasks: WantedTasks<'_> = wanted.tasks.iter().collect();
        let results: WantedResults<'_> = wanted.results.iter().collect();
        let mut p = RoundTrip::new();
        let task_inputs = p.add_some(&s.task_inputs, tasks.params(&[]));
        let result_inputs = p.add_some(&s.result_inputs, results.params(&[]));
        let answers = p.run(&self.client).await?;
        Ok(Applied {
            task_inputs: answers.of(task_inputs).iter().map(task_input).collect(),
            results: answers.of(result_inputs).iter().map(result_input).collect(),
            ..Applied::default()
        })
    }

    /// Sizes in bytes of the documents that exist; a negative position stands for the task's own
    /// documents. Committed documents never change, so the read is valid inside or outside a
    /// transaction.
    pub async fn sizes(&self, wanted: &[(Uuid, i16)]) -> Result<Vec<(Uuid, i16, i32)>, StoreError> {
        let (tasks, steps): (Vec<Uuid>, Vec<i16>) = wanted.iter().copied().unzip();
        let rows = in_time(
            ANSWER_TIMEOUT,
            self.client.query(&self.statements.sizes, &[&tasks, &steps]),
        )
        .await?;
        Ok(rows
            .iter()
            .map(|row| (row.get(0), row.get(1), row.get(2)))
            .collect())
    }
}
