//! Reads of tasks, their steps and their attempts. The engine's own reads, under lock, are in
//! `pipeline`.

mod list;

pub(super) use list::{ID_CLOCK_MARGIN, id_at};
pub use list::{TaskFilter, list};

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use futures_util::future::try_join4;
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

use super::{Db, StoreError};
use crate::domain::{
    attempt::{Failure, OutcomeKind},
    step::StepState,
    task::TaskState,
};

/// A task as readers see it.
#[derive(Clone, Debug)]
pub struct Task {
    pub task_id: Uuid,
    pub template_id: i32,
    pub state: TaskState,
    pub priority: i16,
    pub steps_total: i16,
    pub steps_done: Vec<u8>,
    pub failed_step: Option<i16>,
    pub failure: Option<Failure>,
    pub submitted_at: SystemTime,
    pub started_at: Option<SystemTime>,
    pub ended_at: Option<SystemTime>,
    pub cancelled_by: Option<String>,
    pub cancel_reason: Option<String>,
    pub paused_at: Option<SystemTime>,
    pub paused_by: Option<String>,
    pub pause_reason: Option<String>,
    pub resolved_by: Option<String>,
    pub resolve_reason: Option<String>,
    pub not_before: Option<SystemTime>,
    pub expires_at: Option<SystemTime>,
    /// The adjustments by overrides and by the planner, as JSON.
    pub settings: Option<String>,
    pub correlation_id: String,
    pub annotations: String,
    /// Empty in lists.
    pub context: String,
}

/// A step as readers see it.
#[derive(Clone, Debug)]
pub struct Step {
    pub step: i16,
    pub state: StepState,
    pub attempt: i32,
    pub charged: i16,
    pub result: Option<String>,
    pub failure: Option<Failure>,
    pub ready_at: Option<SystemTime>,
    pub started_at: Option<SystemTime>,
    pub ended_at: Option<SystemTime>,
    pub next_attempt_at: Option<SystemTime>,
    pub deadline_at: Option<SystemTime>,
    pub worker_id: Option<Uuid>,
    pub worker_name: Option<String>,
    pub set_by: Option<String>,
    pub set_reason: Option<String>,
    /// Whether there is a result that is too large to be read with the others.
    pub result_left_out: bool,
    /// Whether there is an error context that is too large to be read with the others.
    pub context_left_out: bool,
}

/// An ended attempt.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub step: i16,
    pub attempt: i32,
    pub outcome: OutcomeKind,
    pub charged: bool,
    pub worker_id: Option<Uuid>,
    pub worker_name: Option<String>,
    pub started_at: Option<SystemTime>,
    pub ended_at: SystemTime,
    pub next_attempt_at: Option<SystemTime>,
    pub retry_after: Option<Duration>,
    pub failure: Option<Failure>,
    /// The time of a late result, and the outcome that it reports.
    pub late: Option<(SystemTime, OutcomeKind)>,
    /// The failure lacks its context, and its message is cut.
    pub is_cut: bool,
}

/// The part of a task to read; all of it by default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Part {
    pub step: Option<i16>,
    /// One attempt of the step.
    pub attempt: Option<i32>,
}

/// Bound on the bytes of results in one view of a task, the smallest first; larger ones are left
/// out.
const MAX_RESULTS_BYTES: i64 = 3 << 19;
/// The same bound for the contexts of steps' errors.
const MAX_CONTEXTS_BYTES: i64 = 1 << 18;
/// The same bound for the messages and contexts of attempts' errors.
const MAX_ATTEMPTS_BYTES: i64 = 1 << 19;
/// Bound on the attempts in one view of a task.
const MAX_ATTEMPTS: i64 = 10_000;

/// A whole task, all parts read from one snapshot.
#[derive(Clone, Debug)]
pub struct TaskView {
    pub task: Task,
    pub steps: Vec<Step>,
    /// Empty unless requested.
    pub attempts: Vec<Attempt>,
}

const TASK: &str = "
    SELECT t.task_id, t.template_id, t.state::text, t.priority, t.steps_total, t.steps_done, t.failed_step,
           t.submitted_at, t.started_at, t.ended_at, t.cancelled_by, t.cancel_reason, t.correlation_id, t.annotations,
           coalesce(t.error_code, f.error_code),
           CASE WHEN t.error_code IS NULL THEN f.error_message ELSE 'the task''s deadline passed before its last step was done' END,
           CASE WHEN t.error_code IS NULL THEN f.error_context END,
           t.paused_at, t.paused_by, t.pause_reason, t.resolved_by, t.resolve_reason, t.not_before, t.expires_at, t.settings";

/// A task and its steps in one snapshot, a row for each step. The first row has the context, and
/// the row of a step that waits for a retry has the last attempt.
static WHOLE: LazyLock<String> = LazyLock::new(|| {
    let result = "CASE WHEN sum(octet_length(s.result)) OVER (ORDER BY octet_length(s.result), d.step) <= $2 THEN s.result END";
    let context = "CASE WHEN sum(octet_length(s.error_context)) OVER (ORDER BY octet_length(s.error_context), d.step) <= $3
                        THEN s.error_context END";
    let attempt = "a.step, a.attempt, a.outcome::text, a.charged, a.worker_id, NULL::text, a.started_at, a.ended_at,
                   a.next_attempt_at, extract(epoch FROM a.retry_after)::float8, a.error_code, a.error_message, a.error_context";
    format!(
        "{} LEFT JOIN attempts a ON q.state = 'waiting_for_retry' AND a.task_id = $1 AND a.step = q.step
                                AND a.attempt = q.attempt
          WHERE t.task_id = $1 AND ($4::int2 IS NULL OR d.step = $4) ORDER BY d.step",
        task_and_steps(TASK, result, context, attempt, "true")
    )
});

/// The same for the ordinary task: small, without errors, without a step that waits for a retry.
/// The last column is false in a row that needs [`WHOLE`]. This statement has neither windows nor
/// the partitioned log, whose planning at each call costs as much as the rest.
static ORDINARY: LazyLock<String> = LazyLock::new(|| {
    let attempt = "NULL::int2, NULL::int4, NULL::text, NULL::bool, NULL::uuid, NULL::text, NULL::timestamptz, NULL::timestamptz,
                   NULL::timestamptz, NULL::float8, NULL::text, NULL::text, NULL::text";
    let is_whole = "coalesce(t.documents_bytes <= $2::int8, false) AND s.error_context IS NULL
                    AND q.state IS DISTINCT FROM 'waiting_for_retry'";
    format!(
        "{} WHERE t.task_id = $1 ORDER BY d.step",
        task_and_steps(
            &TASK.replace("f.error_context", "NULL::text"),
            "CASE WHEN t.documents_bytes <= $2::int8 THEN s.result END",
            "NULL::text",
            attempt,
            is_whole,
        )
    )
});

/// The columns of a task and its steps, and their tables.
fn task_and_steps(
    task: &str,
    result: &str,
    context: &str,
    attempt: &str,
    is_whole: &str,
) -> String {
    format!(
        "{task}, CASE WHEN d.step = 0 THEN t.context END,
           d.step, coalesce(q.state, s.state, CASE WHEN t.state = 'cancelled' OR t.error_code IS NOT NULL THEN 'cancelled' ELSE 'pending' END::step_state)::text,
           coalesce(q.attempt, s.attempt, 0), coalesce(q.charged, s.charged, 0::int2), {result}, s.error_code,
           s.error_message, {context}, coalesce(q.ready_at, s.ready_at), coalesce(q.started_at, s.started_at),
           coalesce(s.ended_at, CASE WHEN t.state = 'cancelled' OR t.error_code IS NOT NULL THEN t.ended_at END),
           q.next_attempt_at, q.deadline_at, q.worker_id, w.name, s.set_by, s.set_reason,
           {attempt}, NULL::timestamptz, NULL::text, false, s.result IS NOT NULL, s.error_context IS NOT NULL, {is_whole}
      FROM tasks t
      JOIN template_steps d ON d.template_id = t.template_id
      LEFT JOIN steps s ON s.task_id = t.task_id AND s.step = d.step
      LEFT JOIN steps f ON f.task_id = t.task_id AND f.step = t.failed_step
      LEFT JOIN queue q ON q.task_id = t.task_id AND q.step = d.step
      LEFT JOIN workers w ON w.worker_id = q.worker_id"
    )
}

/// The first columns of the parts.
const CONTEXT: usize = 25;
const STEP: usize = 26;
const WAITED_FOR: usize = 43;
/// Two columns: whether there is a result, and an error context, read or not.
const HAS: usize = 59;
/// Whether the row has all parts.
const IS_WHOLE: usize = 61;

const ATTEMPTS: &str = "
    SELECT a.step, a.attempt, a.outcome::text, a.charged, a.worker_id, w.name, a.started_at, a.ended_at,
           a.next_attempt_at, extract(epoch FROM a.retry_after)::float8, a.error_code,
           CASE WHEN a.bytes <= $2 THEN a.error_message ELSE left(a.error_message, 200) END,
           CASE WHEN a.bytes <= $2 THEN a.error_context END,
           l.at, l.outcome::text, coalesce(a.bytes > $2 AND a.error_message IS NOT NULL, false)
      FROM (SELECT *, sum(octet_length(error_message) + coalesce(octet_length(error_context), 0))
                      OVER (ORDER BY octet_length(error_message) + coalesce(octet_length(error_context), 0), step, attempt) AS bytes
              FROM attempts
             WHERE task_id = $1 AND ($3::int2 IS NULL OR step = $3) AND ($4::int4 IS NULL OR attempt = $4)) AS a
      LEFT JOIN workers w ON w.worker_id = a.worker_id
      LEFT JOIN late_results l ON l.task_id = $1 AND l.step = a.step AND l.lease = a.lease
     ORDER BY a.step, a.attempt LIMIT $5";

/// The template of a task, or `None`.
pub async fn template_of(db: &Db, task_id: Uuid) -> Result<Option<i32>, StoreError> {
    let client = db.read().await?;
    let statement = client
        .prepare_cached("SELECT template_id FROM tasks WHERE task_id = $1")
        .await?;
    Ok(client
        .query_opt(&statement, &[&task_id])
        .await?
        .map(|row| row.get(0)))
}

/// One task with its steps, or `None`. Without `with_attempts` it still has the last attempt of
/// each step that waits for a retry. Documents beyond the bounds are left out.
pub async fn get(
    db: &Db,
    task_id: Uuid,
    with_attempts: bool,
    part: Part,
) -> Result<Option<TaskView>, StoreError> {
    let client = db.read().await?;
    if !with_attempts && part.step.is_none() {
        let ordinary = client.prepare_cached(&ORDINARY).await?;
        let rows = client
            .query(&ordinary, &[&task_id, &MAX_RESULTS_BYTES])
            .await?;
        if rows.iter().all(|row| row.get(IS_WHOLE)) {
            return view(&rows, Some(Vec::new()));
        }
    }
    let task = client.prepare_cached(&WHOLE).await?;
    let params: [&(dyn ToSql + Sync); 4] = [
        &task_id,
        &MAX_RESULTS_BYTES,
        &MAX_CONTEXTS_BYTES,
        &part.step,
    ];
    let (rows, attempts) = if with_attempts {
        let attempts = client.prepare_cached(ATTEMPTS).await?;
        // Sent together, so one snapshot costs one round trip.
        let (_, rows, attempts, _) = try_join4(
            client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"),
            client.query(&task, &params),
            client.query(
                &attempts,
                &[
                    &task_id,
                    &MAX_ATTEMPTS_BYTES,
                    &part.step,
                    &part.attempt,
                    &MAX_ATTEMPTS,
                ],
            ),
            client.batch_execute("COMMIT"),
        )
        .await?;
        (rows, Some(attempts))
    } else {
        (client.query(&task, &params).await?, None)
    };
    let attempts = attempts
        .map(|rows| rows.iter().map(|row| attempt_of(row, 0)).collect())
        .transpose()?;
    view(&rows, attempts)
}

/// The view of the rows of a task. Without `attempts` it has those of steps that wait for a retry.
fn view(rows: &[Row], attempts: Option<Vec<Attempt>>) -> Result<Option<TaskView>, StoreError> {
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let mut task = task_of(first)?;
    task.context = first.get::<_, Option<String>>(CONTEXT).unwrap_or_default();
    let attempts = match attempts {
        Some(attempts) => attempts,
        None => rows
            .iter()
            .filter(|row| row.get::<_, Option<i16>>(WAITED_FOR).is_some())
            .map(|row| attempt_of(row, WAITED_FOR))
            .collect::<Result<_, _>>()?,
    };
    Ok(Some(TaskView {
        task,
        steps: rows.iter().map(step_of).collect::<Result<_, _>>()?,
        attempts,
    }))
}

/// The final ones among these tasks.
pub async fn final_states(db: &Db, tasks: &[Uuid]) -> Result<Vec<Uuid>, StoreError> {
    let client = db.read().await?;
    let sql = "SELECT task_id FROM tasks WHERE task_id = ANY($1::uuid[]) AND ended_at IS NOT NULL";
    let statement = client.prepare_cached(sql).await?;
    Ok(client
        .query(&statement, &[&tasks])
        .await?
        .iter()
        .map(|r| r.get(0))
        .collect())
}

fn task_of(row: &Row) -> Result<Task, StoreError> {
    let state: &str = row.get(2);
    Ok(Task {
        task_id: row.get(0),
        template_id: row.get(1),
        state: TaskState::from_name(state)
            .ok_or_else(|| StoreError::Corrupt(format!("task state `{state}`")))?,
        priority: row.get(3),
        steps_total: row.get(4),
        steps_done: row.get(5),
        failed_step: row.get(6),
        submitted_at: row.get(7),
        started_at: row.get(8),
        ended_at: row.get(9),
        cancelled_by: row.get(10),
        cancel_reason: row.get(11),
        correlation_id: row.get(12),
        annotations: row.get(13),
        failure: failure_of(row, 14),
        paused_at: row.get(17),
        paused_by: row.get(18),
        pause_reason: row.get(19),
        resolved_by: row.get(20),
        resolve_reason: row.get(21),
        not_before: row.get(22),
        expires_at: row.get(23),
        settings: row.get(24),
        context: String::new(),
    })
}

fn step_of(row: &Row) -> Result<Step, StoreError> {
    let state: &str = row.get(STEP + 1);
    Ok(Step {
        step: row.get(STEP),
        state: StepState::from_name(state)
            .ok_or_else(|| StoreError::Corrupt(format!("step state `{state}`")))?,
        attempt: row.get(STEP + 2),
        charged: row.get(STEP + 3),
        result: row.get(STEP + 4),
        failure: failure_of(row, STEP + 5),
        ready_at: row.get(STEP + 8),
        started_at: row.get(STEP + 9),
        ended_at: row.get(STEP + 10),
        next_attempt_at: row.get(STEP + 11),
        deadline_at: row.get(STEP + 12),
        worker_id: row.get(STEP + 13),
        worker_name: row.get(STEP + 14),
        set_by: row.get(STEP + 15),
        set_reason: row.get(STEP + 16),
        result_left_out: row.get::<_, bool>(HAS) && row.get::<_, Option<&str>>(STEP + 4).is_none(),
        context_left_out: row.get::<_, bool>(HAS + 1)
            && row.get::<_, Option<&str>>(STEP + 7).is_none(),
    })
}

/// Reads the columns of [`ATTEMPTS`], which begin at `at`.
fn attempt_of(row: &Row, at: usize) -> Result<Attempt, StoreError> {
    let (outcome, late): (&str, Option<&str>) = (row.get(at + 2), row.get(at + 14));
    Ok(Attempt {
        step: row.get(at),
        attempt: row.get(at + 1),
        outcome: OutcomeKind::from_name(outcome)
            .ok_or_else(|| StoreError::Corrupt(format!("outcome `{outcome}`")))?,
        charged: row.get::<_, Option<bool>>(at + 3).unwrap_or_default(),
        worker_id: row.get(at + 4),
        worker_name: row.get(at + 5),
        started_at: row.get(at + 6),
        ended_at: row.get(at + 7),
        next_attempt_at: row.get(at + 8),
        retry_after: row
            .get::<_, Option<f64>>(at + 9)
            .and_then(|s| Duration::try_from_secs_f64(s).ok()),
        failure: failure_of(row, at + 10),
        late: row
            .get::<_, Option<SystemTime>>(at + 13)
            .zip(late.and_then(OutcomeKind::from_name)),
        is_cut: row.get(at + 15),
    })
}

/// Reads three columns: code, message, context.
pub(super) fn failure_of(row: &Row, at: usize) -> Option<Failure> {
    let message: Option<String> = row.get(at + 1);
    message.map(|message| Failure {
        message,
        code: row.get::<_, Option<String>>(at).unwrap_or_default(),
        context: row.get(at + 2),
    })
}
