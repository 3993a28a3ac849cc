//! Fills a database with history in bulk, to measure a system after a million tasks.

use std::cell::Cell;

use futures_util::future::try_join_all;
use tokio_postgres::Client;

use crate::store::{Db, StoreError};

/// Tasks per statement.
const CHUNK: i64 = 20_000;
/// Concurrent statements; two keep two cores busy.
const SESSIONS: usize = 2;

/// Ids in the form of version 7: the time in ms, beginning 39 days ago with at most three per ms,
/// so that they arrive in index order; the rest is a hash of the number.
const IDS: &str = "
    WITH f AS MATERIALIZED (
        SELECT n, (lpad(to_hex(ms), 12, '0') || '7' || substr(h, 1, 3) || '8' || substr(h, 4, 15))::uuid AS task_id,
               to_timestamp(ms / 1000.0) AS at
          FROM generate_series($1::bigint, $2::bigint) AS n,
               LATERAL (SELECT (extract(epoch FROM now()) * 1000)::bigint - 3369600000 + n / 3 AS ms,
                               md5(n::text || $4::text) AS h) AS r
         ORDER BY n),
    def AS MATERIALIZED (
        SELECT count(*)::int2 AS steps, min(lane_id) FILTER (WHERE step = 0) AS lane_id
          FROM template_steps WHERE template_id = $3::int4),";

/// The rows that the engine leaves for a chain whose steps all succeeded at once.
const FINISHED: &str = r#"
    t AS (
        INSERT INTO tasks (task_id, template_id, state, priority, steps_total, steps_live, steps_done, submitted_at,
                           started_at, ended_at, correlation_id, annotations, context)
        SELECT task_id, $3, 'complete', 0, def.steps, 0, '\x1f', at, at, at + interval '9 ms', task_id::text, '{}',
               format('{"email":"user%s@example.com","name":"User %s","plan":"pro","source":"web"}', n, n)
          FROM f, def),
    s AS (
        INSERT INTO steps (task_id, step, state, attempt, charged, result, ready_at, started_at, ended_at)
        SELECT task_id, i, 'complete', 1, 0, format('{"user_id":%s,"status":"created"}', n), at + i * interval '2 ms',
               at + i * interval '2 ms', at + i * interval '2 ms' + interval '1 ms'
          FROM f, def, generate_series(0, def.steps - 1) AS i)
    INSERT INTO events (at, type, template_id, task_id, step, attempt, worker_id, outcome, charged, lease, ready_at,
                        started_at)
    SELECT at + coalesce(e.step, 0) * interval '2 ms', e.type::event_type, $3, task_id, e.step,
           CASE WHEN e.step IS NOT NULL THEN 1 END, CASE WHEN e.step IS NOT NULL THEN task_id END,
           e.outcome::attempt_outcome, CASE WHEN e.outcome IS NOT NULL THEN false END,
           CASE WHEN e.step IS NOT NULL THEN n END, at, at
      FROM f, def, LATERAL (
           SELECT 0 AS k, 'task.submitted' AS type, NULL::int2 AS step, NULL AS outcome
           UNION ALL SELECT 1, 'task.started', NULL, NULL
           UNION ALL SELECT 2 + 2 * i, 'step.started', i::int2, NULL FROM generate_series(0, def.steps - 1) AS i
           UNION ALL SELECT 3 + 2 * i, 'step.completed', i::int2, 'succeeded' FROM generate_series(0, def.steps - 1) AS i
           UNION ALL SELECT 99, 'task.completed', NULL, NULL) AS e
     ORDER BY n, k"#;

/// Nine of ten wait for a worker; the tenth has failed once and is retried after an hour.
const WAITING: &str = r#"
    t AS (
        INSERT INTO tasks (task_id, template_id, state, priority, steps_total, steps_live, steps_done, submitted_at,
                           started_at, correlation_id, annotations, context)
        SELECT task_id, $3, CASE WHEN n % 10 = 0 THEN 'in_progress' ELSE 'pending' END::task_state, 0, def.steps, 1,
               '\x00', at, CASE WHEN n % 10 = 0 THEN at END, task_id::text, '{}',
               format('{"email":"user%s@example.com","name":"User %s","plan":"pro","source":"web"}', n, n)
          FROM f, def),
    q AS (
        INSERT INTO queue (task_id, step, template_id, lane_id, priority, state, due, attempt, charged, ready_at,
                           next_attempt_at)
        SELECT task_id, 0, $3, def.lane_id, 0,
               CASE WHEN n % 10 = 0 THEN 'waiting_for_retry' ELSE 'ready' END::step_state, n % 10 <> 0,
               (n % 10 = 0)::int, (n % 10 = 0)::int, at,
               CASE WHEN n % 10 = 0 THEN now() + interval '1 hour' + n * interval '1 ms' END
          FROM f, def)
    INSERT INTO events (at, type, template_id, task_id, step, attempt, worker_id, outcome, charged, lease, ready_at,
                        started_at, next_attempt_at, error_message)
    SELECT at, e.type::event_type, $3, task_id, e.step, e.step + 1, CASE WHEN e.step IS NOT NULL THEN task_id END,
           e.outcome::attempt_outcome, CASE WHEN e.outcome IS NOT NULL THEN true END,
           CASE WHEN e.step IS NOT NULL THEN n END, at, at,
           CASE WHEN e.outcome IS NOT NULL THEN now() + interval '1 hour' END,
           CASE WHEN e.outcome IS NOT NULL THEN 'service unavailable' END
      FROM f, (VALUES (0, 'task.submitted', NULL::int2, NULL),
                      (1, 'task.started', NULL, NULL),
                      (2, 'step.started', 0, NULL),
                      (3, 'step.retrying', 0, 'retryable_error')) AS e(k, type, step, outcome)
     WHERE k = 0 OR n % 10 = 0
     ORDER BY n, k"#;

/// The state of the tasks to fill in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Finished,
    Waiting,
}

/// Inserts `count` tasks of a template with one root and at most eight steps. `progress` receives
/// the number stored so far.
pub async fn fill(
    db: &Db,
    kind: Kind,
    template_id: i32,
    count: i64,
    progress: &dyn Fn(i64),
) -> Result<(), StoreError> {
    let (body, seed) = match kind {
        Kind::Finished => (FINISHED, "finished"),
        Kind::Waiting => (WAITING, "waiting"),
    };
    let sql = format!("{IDS}{body}");
    let (next, stored) = (Cell::new(0), Cell::new(0));
    try_join_all((0..SESSIONS).map(async |_| {
        let client = session(db).await?;
        let statement = client.prepare(&sql).await?;
        while next.get() < count {
            let first = next.get();
            let last = count.min(first + CHUNK);
            next.set(last);
            client
                .execute(&statement, &[&first, &(last - 1), &template_id, &seed])
                .await?;
            stored.set(stored.get() + last - first);
            progress(stored.get());
        }
        Ok::<_, StoreError>(())
    }))
    .await?;
    Ok(())
}

/// Vacuums and analyses the tables and writes them out, as autovacuum and checkpoints do in time.
pub async fn vacuum(db: &Db) -> Result<(), StoreError> {
    let client = session(db).await?;
    for table in ["tasks", "steps", "events", "queue"] {
        client
            .batch_execute(&format!("VACUUM (ANALYZE) {table}"))
            .await?;
    }
    // Only some roles may do this; without it the checkpoint falls into the measurement, which is
    // acceptable.
    let _ = client.batch_execute("CHECKPOINT").await;
    Ok(())
}

/// A session for bulk work. Its commits are asynchronous, since a loss of this data is harmless.
async fn session(db: &Db) -> Result<Client, StoreError> {
    let client = db.connect_dedicated().await?;
    client
        .batch_execute(
            "SET statement_timeout = 0; SET synchronous_commit = off; SET work_mem = '64MB'",
        )
        .await?;
    Ok(client)
}
