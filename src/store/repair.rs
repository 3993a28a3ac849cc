//! Repairs tasks: locks them with all their rows in play, reads their state, and writes the
//! corrections, in one transaction. Repairs are very rare, so the statements are prepared on use.

use std::{collections::BTreeMap, time::SystemTime};

use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    StoreError,
    audit::wakes,
    deadline::{DeadlineClient, DeadlineTransaction},
    pipeline::{
        Event,
        encode::Params,
        statement::insert_events::{Events, INSERT_EVENTS},
    },
};
use crate::domain::{
    progress::{Progress, StepSet},
    step::StepState,
    task::TaskState,
};

/// How far back, in events, the history is searched for attempts without a row. An older attempt is
/// unknown, and the next attempt reuses its number.
const RECENT_EVENTS: i64 = 100_000;

/// A task's row.
#[derive(Clone, Debug)]
pub struct AuditedTask {
    pub template_id: i32,
    pub priority: i16,
    pub progress: Progress,
    pub has_end: bool,
    pub correlation_id: String,
}

/// A step in play.
#[derive(Clone, Debug)]
pub struct AuditedStep {
    pub step: i16,
    pub template_id: i32,
    pub wakes: bool,
    pub attempt: i32,
    pub charged: i16,
    pub lost: i16,
    pub lease: Option<i64>,
    pub worker_id: Option<Uuid>,
    pub ready_at: SystemTime,
    pub started_at: Option<SystemTime>,
}

/// An ended attempt in the history.
#[derive(Clone, Copy, Debug)]
pub struct PastAttempt {
    pub step: i16,
    pub attempt: i32,
    pub charged: bool,
    pub lost: bool,
}

/// All rows that determine the state of a task.
#[derive(Clone, Debug)]
pub struct Audited {
    pub task_id: Uuid,
    /// `None` for a task that does not exist.
    pub row: Option<AuditedTask>,
    pub live: Vec<AuditedStep>,
    pub ended: Vec<(i16, StepState)>,
    pub attempts: Vec<PastAttempt>,
}

impl Audited {
    fn nothing(task_id: Uuid) -> Self {
        Self {
            task_id,
            row: None,
            live: Vec::new(),
            ended: Vec::new(),
            attempts: Vec::new(),
        }
    }
}

/// An attempt that started.
#[derive(Clone, Copy, Debug)]
pub struct StartedAttempt {
    pub task_id: Uuid,
    pub step: i16,
    pub attempt: i32,
    pub lease: Option<i64>,
    pub worker_id: Option<Uuid>,
    pub ready_at: Option<SystemTime>,
    pub at: SystemTime,
}

/// A step that becomes ready (again).
#[derive(Clone, Debug)]
pub struct PutBack {
    pub task_id: Uuid,
    pub step: i16,
    pub template_id: i32,
    pub lane_id: i32,
    pub priority: i16,
    /// The number of its last attempt.
    pub attempt: i32,
    pub charged: i16,
    pub lost: i16,
}

/// The writes of a repair.
#[derive(Clone, Debug, Default)]
pub struct Corrections {
    /// Queue rows to delete.
    pub removed: Vec<(Uuid, i16)>,
    /// Those of them whose steps are cancelled with their task.
    pub cancelled: Vec<(Uuid, AuditedStep)>,
    pub put_back: Vec<PutBack>,
    pub tasks: Vec<(Uuid, Progress)>,
    pub events: Vec<Event>,
    pub notify: Option<String>,
}

/// A repair: a transaction that has the audit lock and the locks of the tasks in hand.
pub struct RepairTransaction<'a> {
    tx: DeadlineTransaction<'a>,
    pub tasks: Vec<Audited>,
    pub now: SystemTime,
}

/// The audit lock: whether no other transaction audits at the moment.
const TURN: &str =
    "SELECT pg_try_advisory_xact_lock(hashtext('tasker audit ' || current_schema()))";

/// Runs twice, in the lock order of all writers: queue rows, then tasks, and then the rows that
/// came into play before the lock on their task.
const LOCK_QUEUE: &str = concat!(
    "SELECT task_id, step, template_id, ",
    wakes!(),
    ", attempt, charged, lost, lease, worker_id, ready_at, started_at
       FROM queue WHERE task_id = ANY($1::uuid[]) ORDER BY task_id, step FOR UPDATE"
);

const LOCK_TASKS: &str = "
    SELECT task_id, template_id, priority, state::text, steps_live, steps_done, failed_step, ended_at IS NOT NULL,
           correlation_id, paused_at IS NOT NULL
      FROM tasks WHERE task_id = ANY($1::uuid[]) ORDER BY task_id FOR UPDATE";

const ENDED: &str = "SELECT task_id, step, state::text FROM steps WHERE task_id = ANY($1::uuid[])";

const PAST: &str = "
    SELECT task_id, step, attempt, coalesce(charged, false), outcome = 'worker_lost'
      FROM events WHERE task_id = ANY($1::uuid[]) AND outcome IS NOT NULL AND attempt > 0";

const STARTS: &str = "
    SELECT task_id, step, attempt, lease, worker_id, ready_at, at
      FROM (SELECT * FROM events ORDER BY xid DESC, seq DESC LIMIT $2) AS e
     WHERE type = 'step.started' AND task_id = ANY($1::uuid[])";

const REMOVE: &str = "
    DELETE FROM queue q USING unnest($1::uuid[], $2::int2[]) AS u(task_id, step)
     WHERE q.task_id = u.task_id AND q.step = u.step";

const CANCEL: &str = "
    INSERT INTO steps (task_id, step, state, attempt, charged, ready_at, started_at, ended_at)
    VALUES ($1, $2, 'cancelled', $3, $4, $5, $6, $7)";

/// A new row that takes no other column from an old one.
const PUT_BACK: &str = "
    INSERT INTO queue (task_id, step, template_id, lane_id, priority, state, due, attempt, charged, lost, ready_at, paused,
                       expires_at, assignment_bytes, revision)
    SELECT $1, $2, $3, $4, $5, 'ready', paused_at IS NULL, $6, $7, $8, $9, paused_at IS NOT NULL, expires_at,
           CASE WHEN coalesce(documents_bytes, 2147483647) > 32768
                THEN least(coalesce(documents_bytes, 2147483647)::int8 + 65536, 2147483647)::int END,
           nullif(revision, 0)
      FROM tasks WHERE task_id = $1";

const UPDATE_TASK: &str = "
    UPDATE tasks
       SET state = $2::text::task_state, steps_live = $3, steps_done = $4, failed_step = $5,
           started_at = CASE WHEN $2 IN ('in_progress', 'complete', 'error') THEN coalesce(started_at, $6) ELSE started_at END,
           ended_at = CASE WHEN $2 NOT IN ('pending', 'in_progress') THEN coalesce(ended_at, $6) END
     WHERE task_id = $1";

impl<'a> RepairTransaction<'a> {
    /// Locks the tasks and all their rows in play, and reads their state. `None` when another
    /// server audits.
    pub async fn begin(
        session: &'a mut DeadlineClient,
        tasks: &[Uuid],
    ) -> Result<Option<Self>, StoreError> {
        let tx = session.transaction().await?;
        // A stopped process must not block the other servers, and a lock that another transaction
        // keeps for long is not waited for.
        tx.batch_execute(
            "SET LOCAL idle_in_transaction_session_timeout = 5000; SET LOCAL lock_timeout = 2000",
        )
        .await?;
        if !tx.query_one(TURN, &[]).await?.get::<_, bool>(0) {
            return Ok(None);
        }
        tx.query(LOCK_QUEUE, &[&tasks]).await?;
        let rows = tx.query(LOCK_TASKS, &[&tasks]).await?;
        let live = tx.query(LOCK_QUEUE, &[&tasks]).await?;
        let ended = tx.query(ENDED, &[&tasks]).await?;
        let past = tx.query(PAST, &[&tasks]).await?;
        let now = tx.query_one("SELECT clock_timestamp()", &[]).await?.get(0);
        let empty = |task_id: &Uuid| (*task_id, Audited::nothing(*task_id));
        let mut audited: BTreeMap<Uuid, Audited> = tasks.iter().map(empty).collect();
        let mut of = |row: &Row, put: &mut dyn FnMut(&mut Audited)| {
            audited.get_mut(&row.get(0)).into_iter().for_each(put);
        };
        for row in &rows {
            let task = task_row(row)?;
            of(row, &mut |a| a.row = Some(task.clone()));
        }
        for row in &ended {
            let state: &str = row.get(2);
            let state = StepState::from_name(state)
                .ok_or_else(|| StoreError::Corrupt(format!("step state `{state}`")))?;
            of(row, &mut |a| a.ended.push((row.get(1), state)));
        }
        live.iter()
            .for_each(|row| of(row, &mut |a| a.live.push(live_row(row))));
        past.iter()
            .for_each(|row| of(row, &mut |a| a.attempts.push(past_attempt(row))));
        Ok(Some(Self {
            tx,
            tasks: audited.into_values().collect(),
            now,
        }))
    }

    /// Recent starts of attempts of these tasks: their queue rows may be gone, or no longer record
    /// the attempt.
    pub async fn recent_starts(&self, tasks: &[Uuid]) -> Result<Vec<StartedAttempt>, StoreError> {
        let rows = self.tx.query(STARTS, &[&tasks, &RECENT_EVENTS]).await?;
        Ok(rows.iter().map(start).collect())
    }

    /// Writes the corrections and commits.
    pub async fn commit(self, corrections: Corrections, channel: &str) -> Result<(), StoreError> {
        let tx = self.tx;
        let now = self.now;
        let (tasks, steps) = corrections
            .removed
            .iter()
            .copied()
            .unzip::<_, _, Vec<Uuid>, Vec<i16>>();
        expect(
            "rows taken out of play",
            tx.execute(REMOVE, &[&tasks, &steps]).await?,
            tasks.len(),
        )?;
        for (task_id, row) in &corrections.cancelled {
            let values: Params<'_> = vec![
                task_id,
                &row.step,
                &row.attempt,
                &row.charged,
                &row.ready_at,
                &row.started_at,
                &now,
            ];
            tx.execute(CANCEL, &values).await?;
        }
        for p in &corrections.put_back {
            let values: Params<'_> = vec![
                &p.task_id,
                &p.step,
                &p.template_id,
                &p.lane_id,
                &p.priority,
                &p.attempt,
                &p.charged,
                &p.lost,
                &now,
            ];
            tx.execute(PUT_BACK, &values).await?;
        }
        for (task_id, p) in &corrections.tasks {
            let (live, failed) = (
                i16::try_from(p.live).unwrap_or(i16::MAX),
                p.failed_step.map(u16::cast_signed),
            );
            let (state, done) = (p.state.as_str(), p.done.as_bytes());
            let values: Params<'_> = vec![task_id, &state, &live, &done, &failed, &now];
            expect("repaired tasks", tx.execute(UPDATE_TASK, &values).await?, 1)?;
        }
        let events: Events<'_> = corrections.events.iter().collect();
        if let Some(values) = events.params(&[&now]) {
            tx.execute(INSERT_EVENTS, &values).await?;
        }
        if let Some(payload) = &corrections.notify {
            tx.execute("SELECT pg_notify($1, $2)", &[&channel, payload])
                .await?;
        }
        tx.commit().await
    }
}

/// Under the locks no other number is possible; if it occurs all the same, nothing is written.
fn expect(what: &str, changed: u64, expected: usize) -> Result<(), StoreError> {
    match u64::try_from(expected) {
        Ok(expected) if expected == changed => Ok(()),
        _ => Err(StoreError::Corrupt(format!(
            "{what}: {changed} rows changed where {expected} were expected"
        ))),
    }
}

fn task_row(row: &Row) -> Result<AuditedTask, StoreError> {
    let state: &str = row.get(3);
    Ok(AuditedTask {
        template_id: row.get(1),
        priority: row.get(2),
        progress: Progress {
            state: TaskState::from_name(state)
                .ok_or_else(|| StoreError::Corrupt(format!("task state `{state}`")))?,
            // An impossible value is wrong in any case.
            live: u16::try_from(row.get::<_, i16>(4)).unwrap_or(u16::MAX),
            done: StepSet::from_bytes(row.get(5)),
            failed_step: row.get::<_, Option<i16>>(6).map(i16::cast_unsigned),
            paused: row.get(9),
        },
        has_end: row.get(7),
        correlation_id: row.get(8),
    })
}

fn live_row(row: &Row) -> AuditedStep {
    AuditedStep {
        step: row.get(1),
        template_id: row.get(2),
        wakes: row.get(3),
        attempt: row.get(4),
        charged: row.get(5),
        lost: row.get(6),
        lease: row.get(7),
        worker_id: row.get(8),
        ready_at: row.get(9),
        started_at: row.get(10),
    }
}

fn past_attempt(row: &Row) -> PastAttempt {
    PastAttempt {
        step: row.get(1),
        attempt: row.get(2),
        charged: row.get(3),
        lost: row.get(4),
    }
}

fn start(row: &Row) -> StartedAttempt {
    StartedAttempt {
        task_id: row.get(0),
        step: row.get(1),
        attempt: row.get(2),
        lease: row.get(3),
        worker_id: row.get(4),
        ready_at: row.get(5),
        at: row.get(6),
    }
}
