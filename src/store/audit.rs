//! Finds rows that no loop would ever wake, a portion at a time; `repair` corrects them.
//!
//! The view `liveness_violations` has the same conditions for the whole database, and reads all of
//! it. The queue is small by nature, and a scan walks it in key order. The tasks in question are
//! those that are not final and have no row in play: an index on them would have to be written with
//! every step, so a scan walks the primary key of the tasks too.

use uuid::Uuid;

use super::{Db, StoreError};

/// Queue rows that one scan reads.
pub const QUEUE_PORTION: i64 = 5_000;
/// Tasks that one scan reads, after those of the scan before.
pub const TASKS_PORTION: i64 = 10_000;
/// The newest tasks, which every scan reads.
pub const NEWEST: i64 = 1_000;

/// Where the next scan continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// After this queue row.
    pub queue: (Uuid, i16),
    /// With tasks older than this one.
    pub tasks: Uuid,
}

impl Default for Position {
    /// Before the first step of the oldest task, and after the newest task.
    fn default() -> Self {
        Self {
            queue: (Uuid::nil(), i16::MIN),
            tasks: Uuid::max(),
        }
    }
}

/// The result of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// Tasks that seem broken, in the order of their ids.
    pub suspects: Vec<Uuid>,
    pub next: Position,
}

/// Whether a step in play is claimable, or has a time, or has a worker with a lease and a deadline;
/// the condition of `liveness_violations`.
macro_rules! wakes {
    () => {
        "CASE state WHEN 'ready' THEN due OR next_attempt_at IS NOT NULL OR paused
                    WHEN 'in_progress' THEN num_nonnulls(lease, worker_id, started_at, deadline_at) = 4
                    WHEN 'waiting_for_retry' THEN due OR next_attempt_at IS NOT NULL
                    ELSE false END"
    };
}
pub(super) use wakes;

/// One statement and so one snapshot, in which no change is half visible. Each portion is a walk
/// along a primary key.
const SCAN: &str = concat!(
    "WITH turn AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(hashtext('tasker audit ' || current_schema())) AS mine),
     live AS MATERIALIZED (
        SELECT task_id, step, ",
    wakes!(),
    " AS wakes
          FROM queue WHERE (SELECT mine FROM turn) AND (task_id, step) > ($1, $2) ORDER BY task_id, step LIMIT $3),
     newest AS MATERIALIZED (
        SELECT task_id, state, steps_live, ended_at IS NOT NULL AS has_end
          FROM tasks WHERE (SELECT mine FROM turn) ORDER BY task_id DESC LIMIT $4),
     older AS MATERIALIZED (
        SELECT task_id, state, steps_live, ended_at IS NOT NULL AS has_end
          FROM tasks WHERE (SELECT mine FROM turn) AND task_id < $5 ORDER BY task_id DESC LIMIT $6),
     seen AS (
        SELECT * FROM newest
        UNION ALL SELECT * FROM older
        UNION ALL SELECT task_id, state, steps_live, ended_at IS NOT NULL FROM tasks WHERE task_id = ANY($7::uuid[])),
     suspects AS (
        SELECT l.task_id
          FROM live l LEFT JOIN LATERAL (
               SELECT task_id, ended_at FROM tasks WHERE task_id = l.task_id LIMIT 1) t ON true
         WHERE NOT l.wakes OR t.task_id IS NULL OR t.ended_at IS NOT NULL
            OR EXISTS (SELECT FROM steps s WHERE s.task_id = l.task_id AND s.step = l.step)
        UNION
        SELECT task_id FROM seen s
         WHERE has_end <> (state IN ('complete', 'error', 'cancelled', 'resolved_manually'))
            OR NOT has_end AND (steps_live = 0
               OR steps_live <> (SELECT count(*) FROM queue q WHERE q.task_id = s.task_id)))
     SELECT mine, ARRAY(SELECT task_id FROM suspects ORDER BY task_id),
            (SELECT task_id FROM live OFFSET $3 - 1), (SELECT step FROM live OFFSET $3 - 1),
            (SELECT task_id FROM older OFFSET $6 - 1)
       FROM turn"
);

/// Reads the next portions, and the tasks of `again`. `None` when another server audits at this
/// moment.
pub async fn scan(db: &Db, from: Position, again: &[Uuid]) -> Result<Option<Scan>, StoreError> {
    let client = db.patient().await?;
    let statement = client.prepare_cached(SCAN).await?;
    let (task_id, step) = from.queue;
    let row = client
        .query_one(
            &statement,
            &[
                &task_id,
                &step,
                &QUEUE_PORTION,
                &NEWEST,
                &from.tasks,
                &TASKS_PORTION,
                &again,
            ],
        )
        .await?;
    if !row.get::<_, bool>(0) {
        return Ok(None);
    }
    let start = Position::default();
    // A portion that is not full was the last: the next scan starts from the beginning.
    let queue = row
        .get::<_, Option<Uuid>>(2)
        .zip(row.get(3))
        .unwrap_or(start.queue);
    let tasks = row.get::<_, Option<Uuid>>(4).unwrap_or(start.tasks);
    Ok(Some(Scan {
        suspects: row.get(1),
        next: Position { queue, tasks },
    }))
}
