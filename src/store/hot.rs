//! The engine's connection: a transaction in two round trips. The first locks and reads every row
//! that the decision needs; the second, sent once the engine has decided, writes every change and
//! ends with the `COMMIT`.
//!
//! This module declares every hot statement, its preparation, and the order in which a transaction
//! sends them, so that the lock order can be read in one place; the SQL texts are in `reads`,
//! `writes` and `orders`.

mod reads;
mod rows;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant, SystemTime},
};

use futures_util::future::join_all;
use tokio_postgres::{Client, Row, Statement, types::ToSql};
use uuid::Uuid;

use super::{
    Db, StoreError,
    changes::{Changes, WantedInputs},
    columns::{Columns, Params},
    orders,
    template::Newest,
    writes,
};
use crate::domain::{attempt::OutcomeKind, lease::Lease};

pub(super) use rows::task_input;
pub use rows::{
    Applied, Candidate, DispatchRead, EndedRow, IntakeRead, KeyRow, LaneDemand, LiveRow,
    SettleRead, TaskInput, TaskRow,
};
use rows::{candidate, claimed, ended_row, live_row, task_row};

macro_rules! statements {
    ($($name:ident: $sql:expr,)*) => {
        /// Prepared once per connection.
        struct Statements {
            $($name: Statement,)*
        }

        impl Statements {
            async fn prepare(client: &Client) -> Result<Self, StoreError> {
                Ok(Self { $($name: client.prepare($sql).await?,)* })
            }
        }

        /// Every hot statement with its name, for tests that inspect its plan.
        pub const STATEMENTS: &[(&str, &str)] = &[$((stringify!($name), $sql),)*];
    };
}

statements! {
    begin: "BEGIN",
    commit: "COMMIT",
    clock: "SELECT clock_timestamp()",
    lock_leases: reads::LOCK_LEASES,
    lock_tasks_live: reads::LOCK_TASKS_LIVE,
    lock_tasks: reads::LOCK_TASKS,
    peek: reads::PEEK,
    lock_ready: reads::LOCK_READY,
    promote: reads::PROMOTE,
    next_retry: reads::NEXT_RETRY,
    anything_due: reads::ANYTHING_DUE,
    newest_template: reads::NEWEST_TEMPLATE,
    take_keys: reads::TAKE_KEYS,
    read_keys: reads::READ_KEYS,
    past_outcomes: reads::PAST_OUTCOMES,
    insert_tasks: writes::INSERT_TASKS,
    drop_keys: writes::DROP_KEYS,
    end_steps: writes::END_STEPS,
    retry: writes::RETRY,
    give_back: writes::GIVE_BACK,
    insert_live: writes::INSERT_LIVE,
    claim: writes::CLAIM,
    update_tasks: writes::UPDATE_TASKS,
    insert_events: writes::INSERT_EVENTS,
    throttle: writes::THROTTLE,
    lock_shares: writes::LOCK_SHARES,
    spend_probes: writes::SPEND_PROBES,
    notify: "SELECT pg_notify($1, $2)",
    task_inputs: writes::TASK_INPUTS,
    result_inputs: writes::RESULT_INPUTS,
    past_ends: reads::PAST_ENDS,
    sizes: reads::SIZES,
    set_steps: orders::SET_STEPS,
    reopen: orders::REOPEN,
    pause_tasks: orders::PAUSE_TASKS,
    mark: orders::MARK,
    plan: orders::PLAN,
    set_deadlines: orders::SET_DEADLINES,
    drop_deadlines: orders::DROP_DEADLINES,
    late_results: orders::LATE_RESULTS,
}

/// A connection owned by one engine loop.
pub struct Hot {
    client: Client,
    statements: Statements,
    channel: String,
    /// Whether a transaction has begun and not ended.
    open: AtomicBool,
}

/// Limit on a rollback and on the preparation of the statements: neither has anything to wait for.
const PROMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit on the answer to a pipeline. It exceeds the database's statement timeout, so a connection
/// that has not answered by then is given up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);

async fn in_time<T, E>(
    limit: Duration,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, StoreError>
where
    StoreError: From<E>,
{
    Ok(tokio::time::timeout(limit, answer)
        .await
        .map_err(|_| StoreError::silent())??)
}

/// Statements sent together. The database runs them in the order in which they were added, and
/// `run` returns the first error.
struct Pipeline<'a> {
    calls: Vec<(&'a Statement, Params<'a>)>,
}

impl<'a> Pipeline<'a> {
    fn new() -> Self {
        Self {
            calls: Vec::with_capacity(16),
        }
    }

    /// Adds a statement and returns the index of its rows.
    fn add(&mut self, statement: &'a Statement, params: Params<'a>) -> usize {
        self.calls.push((statement, params));
        self.calls.len() - 1
    }

    /// Adds a statement unless its list is empty.
    fn add_some(&mut self, statement: &'a Statement, params: Option<Params<'a>>) -> Option<usize> {
        params.map(|params| self.add(statement, params))
    }

    /// Sends all statements and waits for all answers.
    ///
    /// `join_all` polls up to 30 futures in order, and the first poll of a query sends it; a
    /// `Pipeline` is always shorter, so the statements are sent in order.
    ///
    /// It waits for every answer, since each error after the first reports only that the
    /// transaction is aborted, and such an error could otherwise arrive first.
    async fn run(self, client: &Client) -> Result<Vec<Vec<Row>>, StoreError> {
        debug_assert!(
            self.calls.len() <= 30,
            "a longer pipeline could be sent out of order"
        );
        let answers = join_all(
            self.calls
                .iter()
                .map(|(statement, params)| client.query(*statement, params)),
        );
        let answers = in_time(ANSWER_TIMEOUT, async { Ok::<_, StoreError>(answers.await) }).await?;
        Ok(answers.into_iter().collect::<Result<_, _>>()?)
    }
}

impl Hot {
    /// Connects and prepares the statements.
    pub async fn connect(db: &Db) -> Result<Self, StoreError> {
        let client = db.connect_hot().await?;
        let statements = in_time(PROMPT_TIMEOUT, Statements::prepare(&client)).await?;
        Ok(Self {
            client,
            statements,
            channel: db.channel(),
            open: AtomicBool::new(false),
        })
    }

    /// A pipeline that starts with `BEGIN`.
    fn transaction(&self) -> Pipeline<'_> {
        self.open.store(true, Ordering::Relaxed);
        let mut pipeline = Pipeline::new();
        pipeline.add(&self.statements.begin, vec![]);
        pipeline
    }

    /// Whether the connection is closed for good.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

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
        let lease_tasks: Vec<Uuid> = leases.iter().map(|l| l.task_id).collect();
        let lease_steps: Vec<i16> = leases.iter().map(|l| l.step).collect();
        let (lane_ids, limits, bytes) = lane_arrays(lanes);
        let mut p = self.transaction();
        let live =
            (!leases.is_empty()).then(|| p.add(&s.lock_leases, vec![&lease_tasks, &lease_steps]));
        let before = (!ordered.is_empty()).then(|| p.add(&s.lock_tasks_live, vec![&ordered]));
        // The peek precedes the clock of the locks, so it returns only rows that were committed
        // before that time.
        let peek = (!lanes.is_empty()).then(|| p.add(&s.peek, vec![&lane_ids, &limits, &bytes]));
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
        let rows = p.run(&self.client).await?;
        let of = |place: Option<usize>| place.map_or(&[][..], |i| &rows[i][..]);
        let live = of(live)
            .iter()
            .chain(of(after))
            .map(live_row)
            .collect::<Result<_, _>>()?;
        Ok(SettleRead {
            live,
            ended: of(ends).iter().map(ended_row).collect::<Result<_, _>>()?,
            tasks: rows[tasks].iter().map(task_row).collect::<Result<_, _>>()?,
            candidates: of(peek).iter().map(candidate).collect(),
            now: match clock {
                Some(clock) => rows[clock][0].get(0),
                None => rows[tasks]
                    .last()
                    .map_or(SystemTime::UNIX_EPOCH, |row| row.get(13)),
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
        let namespaces: Vec<&str> = keys.iter().map(|k| k.namespace.as_str()).collect();
        let names: Vec<&str> = keys.iter().map(|k| k.key.as_str()).collect();
        let ids: Vec<Uuid> = keys.iter().map(|k| k.task_id).collect();
        let digests: Vec<&[u8]> = keys.iter().map(|k| k.digest.as_slice()).collect();
        let (lane_ids, limits, bytes) = lane_arrays(lanes);
        let mut p = self.transaction();
        let owners = (!keys.is_empty()).then(|| {
            p.add(&s.take_keys, vec![&namespaces, &names, &ids, &digests]);
            p.add(&s.read_keys, vec![&namespaces, &names])
        });
        let peek = (!lanes.is_empty()).then(|| p.add(&s.peek, vec![&lane_ids, &limits, &bytes]));
        let newest = p.add(&s.newest_template, vec![]);
        let rows = p.run(&self.client).await?;
        let of = |place: Option<usize>| place.map_or(&[][..], |i| &rows[i][..]);
        Ok(IntakeRead {
            newest: Newest {
                template: rows[newest][0].get(0),
                change: rows[newest][0].get(2),
            },
            keys: of(owners)
                .iter()
                .map(|r| KeyRow {
                    namespace: r.get(0),
                    key: r.get(1),
                    task_id: r.get(2),
                    digest: r.get(3),
                })
                .collect(),
            candidates: of(peek).iter().map(candidate).collect(),
            now: rows[newest][0].get(1),
        })
    }

    /// Begins a transaction, marks due retries as claimable, and locks the first steps of each
    /// lane.
    pub async fn begin_dispatch(&self, lanes: &[LaneDemand]) -> Result<DispatchRead, StoreError> {
        let s = &self.statements;
        let (lane_ids, limits, bytes) = lane_arrays(lanes);
        let mut p = self.transaction();
        let promoted = p.add(&s.promote, vec![&reads::MAX_PROMOTED]);
        let ready = p.add(&s.lock_ready, vec![&lane_ids, &limits, &bytes]);
        let next = p.add(&s.next_retry, vec![]);
        let clock = p.add(&s.clock, vec![]);
        let rows = p.run(&self.client).await?;
        Ok(DispatchRead {
            candidates: rows[ready].iter().map(candidate).collect(),
            promoted: rows[promoted].iter().map(|row| row.get(0)).collect(),
            now: rows[clock][0].get(0),
            next_retry: rows[next].first().map(|row| seconds(row.get(0))),
        })
    }

    /// Whether a claim in one of these lanes could succeed, now or once the due retries are
    /// promoted, and the time until the next retry is due.
    pub async fn anything_due(
        &self,
        lanes: &[LaneDemand],
    ) -> Result<(bool, Option<Duration>), StoreError> {
        let (lane_ids, _, bytes) = lane_arrays(lanes);
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
        let tasks: Vec<Uuid> = leases.iter().map(|l| l.task_id).collect();
        let steps: Vec<i16> = leases.iter().map(|l| l.step).collect();
        let nonces: Vec<i64> = leases.iter().map(|l| l.nonce).collect();
        let statement = &self.statements.past_outcomes;
        let rows = in_time(
            ANSWER_TIMEOUT,
            self.client.query(statement, &[&tasks, &steps, &nonces]),
        )
        .await?;
        Ok(rows
            .iter()
            .filter_map(|row| {
                let lease = Lease {
                    task_id: row.get(0),
                    step: row.get(1),
                    nonce: row.get(2),
                };
                Some((lease, OutcomeKind::from_name(row.get(3))?))
            })
            .collect())
    }

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
    #[expect(
        clippy::too_many_lines,
        reason = "one statement a line, in the order of the locks"
    )]
    async fn write(
        &self,
        changes: &Changes,
        inputs: &WantedInputs,
        now: Option<SystemTime>,
    ) -> Result<Applied, StoreError> {
        let s = &self.statements;
        let columns = Columns::of(changes, inputs);
        let mut p = if now.is_none() {
            self.transaction()
        } else {
            Pipeline::new()
        };
        p.add_some(&s.insert_tasks, columns.new_tasks.params(&[&now]));
        p.add_some(&s.drop_keys, columns.dropped.params(&[]));
        p.add_some(
            &s.end_steps,
            columns
                .ended
                .params(&[&now, &columns.ended_count, &columns.ended_whole]),
        );
        let retries = p.add_some(
            &s.retry,
            columns.retries.params(&[&now, &columns.retry_count]),
        );
        p.add_some(
            &s.give_back,
            columns
                .given_back
                .params(&[&now, &columns.given_back_count]),
        );
        p.add_some(&s.set_steps, columns.set_steps.params(&[&now]));
        p.add_some(&s.reopen, columns.reopened.params(&[]));
        let admissions: [&(dyn ToSql + Sync); 3] = [&now, &columns.services, &columns.versions];
        p.add_some(&s.insert_live, columns.new_live.params(&admissions));
        let tasks = p.add_some(
            &s.update_tasks,
            columns.tasks.params(&[&now, &columns.task_count]),
        );
        let claims = p.add_some(&s.claim, columns.claims.params(&admissions));
        p.add_some(&s.pause_tasks, columns.task_pauses.params(&[&now]));
        p.add_some(&s.mark, columns.marks.params(&[]));
        p.add_some(&s.plan, columns.planned.params(&[]));
        p.add_some(&s.set_deadlines, columns.deadlines.params(&[]));
        p.add_some(&s.drop_deadlines, columns.expired.params(&[]));
        p.add_some(&s.insert_events, columns.events.params(&[&now]));
        // After the events that end the attempts: the statement looks those events up.
        p.add_some(&s.late_results, columns.late.params(&[&now]));
        p.add_some(&s.throttle, columns.throttles.params(&[&now]));
        p.add_some(&s.lock_shares, columns.locked_shares.params(&[]));
        p.add_some(&s.spend_probes, columns.spent_probes.params(&[]));
        let task_inputs = p.add_some(&s.task_inputs, columns.task_inputs.params(&[]));
        let results = p.add_some(&s.result_inputs, columns.result_inputs.params(&[]));
        if let Some(payload) = &changes.notify {
            p.add_some(&s.notify, Some(vec![&self.channel, payload]));
        }
        p.add(&s.commit, vec![]);
        let asked = Instant::now();
        let answer = p.run(&self.client).await;
        // Every statement has an answer, also the COMMIT, so no transaction is open.
        if !matches!(answer, Err(StoreError::Connection(_))) {
            self.open.store(false, Ordering::Relaxed);
        }
        let answer = answer?;
        let of = |place: Option<usize>| place.map_or(&[][..], |i| &answer[i][..]);
        Ok(Applied {
            now: now.or_else(|| of(tasks).first().map(|row| row.get(1))),
            claimed: of(claims).iter().map(claimed).collect(),
            task_inputs: of(task_inputs).iter().map(task_input).collect(),
            results: of(results)
                .iter()
                .map(|r| (r.get(0), r.get(1), r.get(2)))
                .collect(),
            next_retry: of(retries)
                .first()
                .and_then(|row| row.get::<_, Option<f64>>(1))
                .map(seconds),
            took: asked.elapsed(),
        })
    }

    /// Documents of tasks, and results, that a decision needs. Committed documents never change, so
    /// the read is valid inside or outside a transaction.
    pub async fn documents(&self, wanted: &WantedInputs) -> Result<Applied, StoreError> {
        let s = &self.statements;
        let changes = Changes::default();
        let columns = Columns::of(&changes, wanted);
        let mut p = Pipeline::new();
        let tasks = p.add_some(&s.task_inputs, columns.task_inputs.params(&[]));
        let results = p.add_some(&s.result_inputs, columns.result_inputs.params(&[]));
        let answer = p.run(&self.client).await?;
        let of = |place: Option<usize>| place.map_or(&[][..], |i| &answer[i][..]);
        Ok(Applied {
            task_inputs: of(tasks).iter().map(task_input).collect(),
            results: of(results)
                .iter()
                .map(|r| (r.get(0), r.get(1), r.get(2)))
                .collect(),
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

    /// Ends the open transaction, if any, without writing. A transaction whose writes failed has
    /// ended with them, and Postgres would warn about a `ROLLBACK` without a transaction.
    pub async fn rollback(&self) -> Result<(), StoreError> {
        if !self.open.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        in_time(PROMPT_TIMEOUT, self.client.batch_execute("ROLLBACK")).await
    }
}

/// The columns of the lanes: ids, limits on the number of steps, and limits on the bytes of an
/// assignment.
fn lane_arrays(lanes: &[LaneDemand]) -> (Vec<i32>, Vec<i32>, Vec<i32>) {
    lanes
        .iter()
        .map(|l| (l.lane_id, l.limit, l.bytes))
        .collect()
}

fn seconds(s: f64) -> Duration {
    Duration::try_from_secs_f64(s.max(0.0)).unwrap_or_default()
}
