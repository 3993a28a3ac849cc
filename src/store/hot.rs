//! The engine's connection: a transaction in two round trips. First everything that has to be locked and read, then, once
//! the engine has decided, everything that has to be written, with the `COMMIT` behind it.
//!
//! Longer than other files because it is one list: every hot statement, its preparation, and the order in which a transaction
//! sends them stand side by side, so that the order of the locks can be read in one place.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::future::join_all;
use tokio_postgres::{Client, Row, Statement, types::ToSql};
use uuid::Uuid;

use super::{
    Db, StoreError,
    changes::{self, Changes, Claimed, WantedInputs},
    columns::{Columns, Params},
    orders,
    task::failure_of,
    writes,
};
use crate::domain::{
    attempt::{Failure, OutcomeKind},
    lease::Lease,
    progress::{Progress, StepSet},
    step::StepState,
    task::TaskState,
};

/// A task's row, locked until the transaction ends.
#[derive(Clone, Debug)]
pub struct TaskRow {
    pub task_id: Uuid,
    pub template_id: i32,
    pub priority: i16,
    pub progress: Progress,
    /// What overrides and its planner changed, as JSON.
    pub settings: Option<Arc<str>>,
    pub expires_at: Option<SystemTime>,
    /// It ended as a whole, for this reason.
    pub error_code: Option<String>,
}

/// A step in play.
#[derive(Clone, Debug)]
pub struct LiveRow {
    pub task_id: Uuid,
    pub step: i16,
    pub attempt: i32,
    pub charged: i16,
    pub lost: i16,
    pub lease: Option<i64>,
    pub worker_id: Option<Uuid>,
    pub ready_at: SystemTime,
    pub started_at: Option<SystemTime>,
    pub deadline_at: Option<SystemTime>,
    /// The attempt is a probe of a half-open circuit.
    pub probe: bool,
    pub state: StepState,
    /// An operator has it tried again.
    pub reopened: bool,
}

/// A step that ended.
#[derive(Clone, Debug)]
pub struct EndedRow {
    pub task_id: Uuid,
    pub step: i16,
    pub state: StepState,
    pub attempt: i32,
    pub charged: i16,
    pub ready_at: SystemTime,
    pub started_at: Option<SystemTime>,
    /// Of one that was resolved by hand.
    pub result: Option<String>,
    pub failure: Option<Failure>,
}

/// A step that a claim could take.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub task_id: Uuid,
    pub step: i16,
    pub template_id: i32,
    pub lane_id: i32,
    pub priority: i16,
}

/// How many claimable steps of a lane to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaneDemand {
    pub lane_id: i32,
    pub limit: i32,
}

/// What the settler works on.
#[derive(Debug)]
pub struct SettleRead {
    /// The rows of the leases asked for, and all rows of the tasks that somebody gave an order about.
    pub live: Vec<LiveRow>,
    /// All ended steps of those.
    pub ended: Vec<EndedRow>,
    pub tasks: Vec<TaskRow>,
    /// Not locked: a claim of one may come too late.
    pub candidates: Vec<Candidate>,
    /// The database's clock; the epoch when there is no task, and so nothing to time.
    pub now: SystemTime,
}

/// What the dispatcher works on.
#[derive(Debug)]
pub struct DispatchRead {
    /// Locked.
    pub candidates: Vec<Candidate>,
    /// The lanes that retries have joined, one or more times.
    pub promoted: Vec<i32>,
    pub now: SystemTime,
    /// Time until the next retry falls due.
    pub next_retry: Option<Duration>,
}

/// An idempotency key that intake asks for.
#[derive(Clone, Debug)]
pub struct KeyRow {
    pub namespace: String,
    pub key: String,
    pub task_id: Uuid,
    pub digest: Vec<u8>,
}

/// What intake works on.
#[derive(Debug)]
pub struct IntakeRead {
    /// The newest template; a larger id than the caller knows means that its view of "newest version" is stale.
    pub newest_template: i32,
    /// Who owns each of the keys now: this transaction, or an earlier submit.
    pub keys: Vec<KeyRow>,
    pub candidates: Vec<Candidate>,
    pub now: SystemTime,
}

/// The documents of a task whose step was claimed.
#[derive(Clone, Debug)]
pub struct TaskInput {
    pub task_id: Uuid,
    pub correlation_id: String,
    pub traceparent: Option<String>,
    pub annotations: String,
    pub context: String,
    pub settings: Option<Arc<str>>,
}

/// What a commit gave back.
#[derive(Debug, Default)]
pub struct Applied {
    /// The transaction's time, if it changed a task or was given one.
    pub now: Option<SystemTime>,
    /// The claims of queued steps that succeeded.
    pub claimed: Vec<Claimed>,
    pub task_inputs: Vec<TaskInput>,
    /// (task, step, JSON)
    pub results: Vec<(Uuid, i16, String)>,
    /// Time until the first of the retries falls due.
    pub next_retry: Option<Duration>,
    /// From the first write to the answer to the commit.
    pub took: Duration,
}

/// Locks in the order of the list.
const LOCK_LEASES: &str = "
    SELECT q.*
      FROM unnest($1::uuid[], $2::int2[]) AS u(task_id, step)
     CROSS JOIN LATERAL (
           SELECT task_id, step, attempt, charged, lost, lease, worker_id, ready_at, started_at, deadline_at, permit_id, state::text,
                  reopened
             FROM queue
            WHERE task_id = u.task_id AND step = u.step LIMIT 1 FOR UPDATE) AS q";

const LOCK_TASKS_LIVE: &str = "
    SELECT task_id, step, attempt, charged, lost, lease, worker_id, ready_at, started_at, deadline_at, permit_id, state::text,
           reopened
      FROM queue WHERE task_id = ANY($1::uuid[]) ORDER BY task_id, step FOR UPDATE";

/// With the time when the lock was there. A statement of its own for that would cost as much as this one.
const LOCK_TASKS: &str = "
    SELECT t.*, clock_timestamp()
      FROM (SELECT task_id, template_id, state::text, priority, steps_live, steps_done, failed_step, paused_at IS NOT NULL,
                   settings, expires_at, error_code
              FROM tasks WHERE task_id = ANY($1::uuid[]) ORDER BY task_id FOR UPDATE) AS t";

/// With the time when the keys were there.
const NEWEST_TEMPLATE: &str = "SELECT coalesce(max(template_id), 0), clock_timestamp() FROM templates";

const PEEK: &str = "
    SELECT q.task_id, q.step, q.template_id, q.lane_id, q.priority
      FROM unnest($1::int4[], $2::int4[]) AS l(lane_id, n)
     CROSS JOIN LATERAL (
           SELECT task_id, step, template_id, lane_id, priority FROM queue
            WHERE queue.lane_id = l.lane_id AND due AND coalesce(expires_at > clock_timestamp(), true)
            ORDER BY priority DESC, task_id, step LIMIT l.n) q";

const LOCK_READY: &str = "
    SELECT q.task_id, q.step, q.template_id, q.lane_id, q.priority
      FROM unnest($1::int4[], $2::int4[]) AS l(lane_id, n)
     CROSS JOIN LATERAL (
           SELECT task_id, step, template_id, lane_id, priority FROM queue
            WHERE queue.lane_id = l.lane_id AND due AND coalesce(expires_at > clock_timestamp(), true)
            ORDER BY priority DESC, task_id, step LIMIT l.n FOR UPDATE SKIP LOCKED) q";

/// Retries whose time has come join the claimable steps. Bounded; what is left over is due at the next look.
const PROMOTE: &str = "
    UPDATE queue q SET due = true
      FROM (SELECT ctid AS tid FROM queue
             WHERE next_attempt_at IS NOT NULL AND NOT due AND NOT paused AND next_attempt_at <= clock_timestamp()
             ORDER BY next_attempt_at LIMIT $1 FOR UPDATE SKIP LOCKED) AS ripe
     WHERE q.ctid = ripe.tid
    RETURNING q.lane_id";

/// The most retries that join at once.
const MAX_PROMOTED: i64 = 1_000;

const NEXT_RETRY: &str = "
    SELECT extract(epoch FROM next_attempt_at - clock_timestamp())::float8
      FROM queue WHERE next_attempt_at IS NOT NULL AND NOT due AND NOT paused ORDER BY next_attempt_at LIMIT 1";

const ANYTHING_DUE: &str = "
    SELECT EXISTS (SELECT FROM unnest($1::int4[]) AS l(lane_id)
                    CROSS JOIN LATERAL (SELECT FROM queue WHERE queue.lane_id = l.lane_id AND due
                                              AND coalesce(expires_at > clock_timestamp(), true) LIMIT 1) q),
           (SELECT extract(epoch FROM next_attempt_at - clock_timestamp())::float8
              FROM queue WHERE next_attempt_at IS NOT NULL AND NOT due AND NOT paused ORDER BY next_attempt_at LIMIT 1)";

const TAKE_KEYS: &str = "
    INSERT INTO idempotency_keys (namespace, key, task_id, digest)
    SELECT * FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bytea[])
        ON CONFLICT (namespace, key) DO NOTHING";

const READ_KEYS: &str = "
    SELECT k.*
      FROM unnest($1::text[], $2::text[]) AS u(namespace, key)
     CROSS JOIN LATERAL (
           SELECT namespace, key, task_id, digest FROM idempotency_keys
            WHERE namespace = u.namespace AND key = u.key LIMIT 1) AS k";

const PAST_OUTCOMES: &str = "
    SELECT e.*
      FROM unnest($1::uuid[], $2::int2[], $3::int8[]) AS u(task_id, step, lease)
     CROSS JOIN LATERAL (
           SELECT task_id, step, lease, outcome::text FROM events
            WHERE task_id = u.task_id AND outcome IS NOT NULL AND step = u.step AND lease = u.lease LIMIT 1) AS e";

const PAST_ENDS: &str = "
    SELECT task_id, step, state::text, attempt, charged, ready_at, started_at,
           CASE WHEN state = 'resolved_manually' THEN result END, error_code, error_message, error_context
      FROM steps WHERE task_id = ANY($1::uuid[])";

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

        /// Every hot statement by its name, for whoever wants to look at its plan.
        pub const STATEMENTS: &[(&str, &str)] = &[$((stringify!($name), $sql),)*];
    };
}

statements! {
    begin: "BEGIN",
    commit: "COMMIT",
    clock: "SELECT clock_timestamp()",
    lock_leases: LOCK_LEASES,
    lock_tasks_live: LOCK_TASKS_LIVE,
    lock_tasks: LOCK_TASKS,
    peek: PEEK,
    lock_ready: LOCK_READY,
    promote: PROMOTE,
    next_retry: NEXT_RETRY,
    anything_due: ANYTHING_DUE,
    newest_template: NEWEST_TEMPLATE,
    take_keys: TAKE_KEYS,
    read_keys: READ_KEYS,
    past_outcomes: PAST_OUTCOMES,
    insert_tasks: writes::INSERT_TASKS,
    drop_keys: writes::DROP_KEYS,
    end_steps: writes::END_STEPS,
    retry: writes::RETRY,
    give_back: writes::GIVE_BACK,
    insert_live: writes::INSERT_LIVE,
    claim: writes::CLAIM,
    start_tasks: writes::START_TASKS,
    update_tasks: writes::UPDATE_TASKS,
    insert_events: writes::INSERT_EVENTS,
    pause: writes::PAUSE,
    hold_permits: writes::HOLD_PERMITS,
    spend_permits: writes::SPEND_PERMITS,
    notify: "SELECT pg_notify($1, $2)",
    task_inputs: writes::TASK_INPUTS,
    result_inputs: writes::RESULT_INPUTS,
    past_ends: PAST_ENDS,
    set_steps: orders::SET_STEPS,
    reopen: orders::REOPEN,
    hold: orders::HOLD,
    mark: orders::MARK,
    plan: orders::PLAN,
    set_deadlines: orders::SET_DEADLINES,
    drop_deadlines: orders::DROP_DEADLINES,
}

/// A connection that belongs to one engine loop.
pub struct Hot {
    client: Client,
    statements: Statements,
    channel: String,
}

/// A rollback has nothing to wait for, and neither has the preparation of the statements.
const PROMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the database lets any statement run: if nothing came by then, nothing will.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);

async fn in_time<T, E>(limit: Duration, answer: impl Future<Output = Result<T, E>>) -> Result<T, StoreError>
where
    StoreError: From<E>,
{
    Ok(tokio::time::timeout(limit, answer).await.map_err(|_| StoreError::silent())??)
}

/// Statements to send together. They run in the order they were added; the first error is the one that comes back.
struct Pipeline<'a> {
    calls: Vec<(&'a Statement, Params<'a>)>,
}

impl<'a> Pipeline<'a> {
    fn new() -> Self {
        Self { calls: Vec::with_capacity(16) }
    }

    /// Adds a statement and returns the place of its rows.
    fn add(&mut self, statement: &'a Statement, params: Params<'a>) -> usize {
        self.calls.push((statement, params));
        self.calls.len() - 1
    }

    /// Adds a statement unless its list is empty.
    fn add_some(&mut self, statement: &'a Statement, params: Option<Params<'a>>) -> Option<usize> {
        params.map(|params| self.add(statement, params))
    }

    /// `join_all` polls in order up to 30 futures, and the first poll of a query is what sends it; a `Pipeline` is always
    /// shorter.
    ///
    /// All answers are waited for: what fails after the first failure says only that the transaction is aborted, and
    /// could otherwise be the answer that is seen first.
    async fn run(self, client: &Client) -> Result<Vec<Vec<Row>>, StoreError> {
        debug_assert!(self.calls.len() <= 30, "a longer pipeline could be sent out of order");
        let answers = join_all(self.calls.iter().map(|(statement, params)| client.query(*statement, params)));
        let answers = in_time(ANSWER_TIMEOUT, async { Ok::<_, StoreError>(answers.await) }).await?;
        Ok(answers.into_iter().collect::<Result<_, _>>()?)
    }
}

impl Hot {
    /// Connects and prepares.
    pub async fn connect(db: &Db) -> Result<Self, StoreError> {
        let client = db.connect_hot().await?;
        let statements = in_time(PROMPT_TIMEOUT, Statements::prepare(&client)).await?;
        Ok(Self { client, statements, channel: db.channel() })
    }

    /// Whether the connection is gone for good.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Begins a transaction and locks what the leases and the tasks name: queue rows first, then task rows, each in the
    /// order of their ids. Every writer keeps this order, so no two of them can wait for each other.
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
        let (lane_ids, limits) = lane_arrays(lanes);
        let mut p = Pipeline::new();
        p.add(&s.begin, vec![]);
        let live = (!leases.is_empty()).then(|| p.add(&s.lock_leases, vec![&lease_tasks, &lease_steps]));
        let before = (!ordered.is_empty()).then(|| p.add(&s.lock_tasks_live, vec![&ordered]));
        // Before the clock of the locks: nothing is seen that was not there then.
        let peek = (!lanes.is_empty()).then(|| p.add(&s.peek, vec![&lane_ids, &limits]));
        let tasks = p.add(&s.lock_tasks, vec![&tasks]);
        // Again: under the task's lock no step can come into play any more that the first look did not see.
        let after = before.is_some().then(|| p.add(&s.lock_tasks_live, vec![&ordered]));
        let ends = before.is_some().then(|| p.add(&s.past_ends, vec![&ordered]));
        // What it saw may have begun since.
        let clock = after.is_some().then(|| p.add(&s.clock, vec![]));
        let rows = p.run(&self.client).await?;
        let of = |place: Option<usize>| place.map_or(&[][..], |i| &rows[i][..]);
        let live = of(live).iter().chain(of(after)).map(live_row).collect::<Result<_, _>>()?;
        Ok(SettleRead {
            live,
            ended: of(ends).iter().map(ended_row).collect::<Result<_, _>>()?,
            tasks: rows[tasks].iter().map(task_row).collect::<Result<_, _>>()?,
            candidates: of(peek).iter().map(candidate).collect(),
            now: match clock {
                Some(clock) => rows[clock][0].get(0),
                None => rows[tasks].last().map_or(SystemTime::UNIX_EPOCH, |row| row.get(11)),
            },
        })
    }

    /// Begins a transaction, takes the idempotency keys that are free (sorted by the caller), and looks for older steps
    /// that must go before the new ones.
    pub async fn begin_intake(&self, keys: &[KeyRow], lanes: &[LaneDemand]) -> Result<IntakeRead, StoreError> {
        let s = &self.statements;
        let namespaces: Vec<&str> = keys.iter().map(|k| k.namespace.as_str()).collect();
        let names: Vec<&str> = keys.iter().map(|k| k.key.as_str()).collect();
        let ids: Vec<Uuid> = keys.iter().map(|k| k.task_id).collect();
        let digests: Vec<&[u8]> = keys.iter().map(|k| k.digest.as_slice()).collect();
        let (lane_ids, limits) = lane_arrays(lanes);
        let mut p = Pipeline::new();
        p.add(&s.begin, vec![]);
        let owners = (!keys.is_empty()).then(|| {
            p.add(&s.take_keys, vec![&namespaces, &names, &ids, &digests]);
            p.add(&s.read_keys, vec![&namespaces, &names])
        });
        let peek = (!lanes.is_empty()).then(|| p.add(&s.peek, vec![&lane_ids, &limits]));
        let newest = p.add(&s.newest_template, vec![]);
        let rows = p.run(&self.client).await?;
        let of = |place: Option<usize>| place.map_or(&[][..], |i| &rows[i][..]);
        Ok(IntakeRead {
            newest_template: rows[newest][0].get(0),
            keys: of(owners)
                .iter()
                .map(|r| KeyRow { namespace: r.get(0), key: r.get(1), task_id: r.get(2), digest: r.get(3) })
                .collect(),
            candidates: of(peek).iter().map(candidate).collect(),
            now: rows[newest][0].get(1),
        })
    }

    /// Begins a transaction, lets due retries join the claimable steps, and locks the first of each lane.
    pub async fn begin_dispatch(&self, lanes: &[LaneDemand]) -> Result<DispatchRead, StoreError> {
        let s = &self.statements;
        let (lane_ids, limits) = lane_arrays(lanes);
        let mut p = Pipeline::new();
        p.add(&s.begin, vec![]);
        let promoted = p.add(&s.promote, vec![&MAX_PROMOTED]);
        let ready = p.add(&s.lock_ready, vec![&lane_ids, &limits]);
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

    /// Whether a claim in one of these lanes could succeed, now or after due retries join; and the time until the next
    /// retry falls due.
    pub async fn anything_due(&self, lanes: &[LaneDemand]) -> Result<(bool, Option<Duration>), StoreError> {
        let (lane_ids, _) = lane_arrays(lanes);
        let row = in_time(ANSWER_TIMEOUT, self.client.query_one(&self.statements.anything_due, &[&lane_ids])).await?;
        let next: Option<f64> = row.get(1);
        Ok((row.get::<_, bool>(0) || next.is_some_and(|s| s <= 0.0), next.map(seconds)))
    }

    /// How the attempts of leases that no longer run ended, for those that the history knows.
    pub async fn past_outcomes(&self, leases: &[Lease]) -> Result<Vec<(Lease, OutcomeKind)>, StoreError> {
        let tasks: Vec<Uuid> = leases.iter().map(|l| l.task_id).collect();
        let steps: Vec<i16> = leases.iter().map(|l| l.step).collect();
        let nonces: Vec<i64> = leases.iter().map(|l| l.nonce).collect();
        let statement = &self.statements.past_outcomes;
        let rows = in_time(ANSWER_TIMEOUT, self.client.query(statement, &[&tasks, &steps, &nonces])).await?;
        Ok(rows
            .iter()
            .filter_map(|row| {
                let lease = Lease { task_id: row.get(0), step: row.get(1), nonce: row.get(2) };
                Some((lease, OutcomeKind::from_name(row.get(3))?))
            })
            .collect())
    }

    /// Like [`Self::commit`], for changes that rest on what is only believed, with nothing locked before: also begins the
    /// transaction. An error that [`StoreError::is_expectation`] says that the belief was wrong.
    pub async fn commit_at_once(&self, changes: &Changes, inputs: &WantedInputs) -> Result<Applied, StoreError> {
        self.write(changes, inputs, None).await
    }

    /// Writes everything and commits, in one round trip. When this returns an error nothing was written, except that a
    /// connection lost in the middle leaves it unknown whether the commit took place.
    pub async fn commit(
        &self,
        changes: &Changes,
        inputs: &WantedInputs,
        now: SystemTime,
    ) -> Result<Applied, StoreError> {
        self.write(changes, inputs, Some(now)).await
    }

    /// Without a time it begins the transaction, and the time is that of the beginning: after everything that was known.
    async fn write(
        &self,
        changes: &Changes,
        inputs: &WantedInputs,
        now: Option<SystemTime>,
    ) -> Result<Applied, StoreError> {
        let s = &self.statements;
        let columns = Columns::of(changes, inputs);
        let mut p = Pipeline::new();
        if now.is_none() {
            p.add(&s.begin, vec![]);
        }
        p.add_some(&s.insert_tasks, columns.new_tasks.params(&[&now]));
        p.add_some(&s.drop_keys, columns.dropped.params(&[]));
        p.add_some(&s.end_steps, columns.ended.params(&[&now, &columns.ended_count, &columns.ended_whole]));
        let retries = p.add_some(&s.retry, columns.retries.params(&[&now, &columns.retry_count]));
        p.add_some(&s.give_back, columns.given_back.params(&[&now, &columns.given_back_count]));
        p.add_some(&s.set_steps, columns.set_steps.params(&[&now]));
        p.add_some(&s.reopen, columns.reopened.params(&[]));
        let gates: [&(dyn ToSql + Sync); 3] = [&now, &columns.services, &columns.gates];
        p.add_some(&s.insert_live, columns.new_live.params(&gates));
        let claims = p.add_some(&s.claim, columns.claims.params(&gates));
        p.add_some(&s.start_tasks, columns.started.params(&[&now]));
        let tasks = p.add_some(&s.update_tasks, columns.tasks.params(&[&now, &columns.task_count]));
        p.add_some(&s.hold, columns.holds.params(&[&now]));
        p.add_some(&s.mark, columns.marks.params(&[]));
        p.add_some(&s.plan, columns.planned.params(&[]));
        p.add_some(&s.set_deadlines, columns.deadlines.params(&[]));
        p.add_some(&s.drop_deadlines, columns.expired.params(&[]));
        p.add_some(&s.insert_events, columns.events.params(&[&now]));
        p.add_some(&s.pause, columns.pauses.params(&[&now]));
        p.add_some(&s.hold_permits, columns.held.params(&[]));
        p.add_some(&s.spend_permits, columns.spent.params(&[]));
        let task_inputs = p.add_some(&s.task_inputs, columns.task_inputs.params(&[]));
        let results = p.add_some(&s.result_inputs, columns.result_inputs.params(&[]));
        if let Some(payload) = &changes.notify {
            p.add_some(&s.notify, Some(vec![&self.channel, payload]));
        }
        p.add(&s.commit, vec![]);
        let asked = Instant::now();
        let answer = p.run(&self.client).await?;
        let of = |place: Option<usize>| place.map_or(&[][..], |i| &answer[i][..]);
        Ok(Applied {
            now: now.or_else(|| of(tasks).first().map(|row| row.get(1))),
            claimed: of(claims).iter().map(claimed).collect(),
            task_inputs: of(task_inputs).iter().map(task_input).collect(),
            results: of(results).iter().map(|r| (r.get(0), r.get(1), r.get(2))).collect(),
            next_retry: of(retries).first().and_then(|row| row.get::<_, Option<f64>>(1)).map(seconds),
            took: asked.elapsed(),
        })
    }

    /// Documents of tasks, and results, that a decision rests on. What has been written never changes, so it makes no
    /// difference whether a transaction has begun.
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
            results: of(results).iter().map(|r| (r.get(0), r.get(1), r.get(2))).collect(),
            ..Applied::default()
        })
    }

    /// Ends the transaction without writing.
    pub async fn rollback(&self) -> Result<(), StoreError> {
        in_time(PROMPT_TIMEOUT, self.client.batch_execute("ROLLBACK")).await
    }
}

fn lane_arrays(lanes: &[LaneDemand]) -> (Vec<i32>, Vec<i32>) {
    lanes.iter().map(|l| (l.lane_id, l.limit)).unzip()
}

fn seconds(s: f64) -> Duration {
    Duration::try_from_secs_f64(s.max(0.0)).unwrap_or_default()
}

fn live_row(row: &Row) -> Result<LiveRow, StoreError> {
    Ok(LiveRow {
        task_id: row.get(0),
        step: row.get(1),
        attempt: row.get(2),
        charged: row.get(3),
        lost: row.get(4),
        lease: row.get(5),
        worker_id: row.get(6),
        ready_at: row.get(7),
        started_at: row.get(8),
        deadline_at: row.get(9),
        probe: row.get::<_, Option<i32>>(10) == Some(changes::PROBE),
        state: step_state(row.get(11))?,
        reopened: row.get(12),
    })
}

fn ended_row(row: &Row) -> Result<EndedRow, StoreError> {
    Ok(EndedRow {
        task_id: row.get(0),
        step: row.get(1),
        state: step_state(row.get(2))?,
        attempt: row.get(3),
        charged: row.get(4),
        ready_at: row.get(5),
        started_at: row.get(6),
        result: row.get(7),
        failure: failure_of(row, 8),
    })
}

fn step_state(name: &str) -> Result<StepState, StoreError> {
    StepState::from_name(name).ok_or_else(|| StoreError::Corrupt(format!("step state `{name}`")))
}

fn task_row(row: &Row) -> Result<TaskRow, StoreError> {
    let state: &str = row.get(2);
    let state = TaskState::from_name(state).ok_or_else(|| StoreError::Corrupt(format!("task state `{state}`")))?;
    Ok(TaskRow {
        task_id: row.get(0),
        template_id: row.get(1),
        priority: row.get(3),
        progress: Progress {
            state,
            live: u16::try_from(row.get::<_, i16>(4)).unwrap_or_default(),
            done: StepSet::from_bytes(row.get(5)),
            failed_step: row.get::<_, Option<i16>>(6).and_then(|step| u16::try_from(step).ok()),
            paused: row.get(7),
        },
        settings: row.get::<_, Option<String>>(8).map(Arc::from),
        expires_at: row.get(9),
        error_code: row.get(10),
    })
}

fn candidate(row: &Row) -> Candidate {
    Candidate {
        task_id: row.get(0),
        step: row.get(1),
        template_id: row.get(2),
        lane_id: row.get(3),
        priority: row.get(4),
    }
}

fn claimed(row: &Row) -> Claimed {
    Claimed {
        task_id: row.get(0),
        step: row.get(1),
        template_id: row.get(2),
        lane_id: row.get(3),
        attempt: row.get(4),
        charged: row.get(5),
        nonce: row.get(6),
        worker_id: row.get(7),
        deadline_at: row.get(8),
    }
}

fn task_input(row: &Row) -> TaskInput {
    TaskInput {
        task_id: row.get(0),
        correlation_id: row.get(1),
        traceparent: row.get(2),
        annotations: row.get(3),
        context: row.get(4),
        settings: row.get::<_, Option<String>>(5).map(Arc::from),
    }
}
