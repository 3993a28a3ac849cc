//! The invariants that hold in the database at any moment, also after any process was killed: one
//! query per invariant, which returns the rows that break it.

use tasker_template::{Graph, Template};
use tokio_postgres::Client;

const INVARIANTS: &[(&str, &str)] = &[
    // Must stay the first entry: `invariants_after_repairs` leaves it out.
    (
        "the auditor has found nothing to mend",
        "SELECT e.task_id || ': ' || e.error_code FROM events e WHERE e.type = 'task.repaired'",
    ),
    ("nothing is without a wake-up", "SELECT v::text FROM liveness_violations v"),
    ("no row contradicts itself", "SELECT v::text FROM row_violations v"),
    (
        "a step has ended or is in play, not both, and belongs to a task",
        "SELECT s.task_id || '/' || s.step FROM steps s LEFT JOIN tasks t USING (task_id) LEFT JOIN queue q USING (task_id, step)
          WHERE q.task_id IS NOT NULL OR t.task_id IS NULL OR s.step NOT BETWEEN 0 AND t.steps_total - 1",
    ),
    (
        "a task that is not final says how many of its steps are in play, and some are",
        "SELECT t.task_id::text FROM tasks t LEFT JOIN (SELECT task_id, count(*) AS n FROM queue GROUP BY 1) q USING (task_id)
          WHERE t.ended_at IS NULL AND (t.steps_live = 0 OR t.steps_live <> coalesce(q.n, 0))",
    ),
    (
        "a final task has no step in play",
        "SELECT q.task_id::text FROM queue q LEFT JOIN tasks t USING (task_id) WHERE t.ended_at IS NOT NULL OR t.task_id IS NULL",
    ),
    (
        "a task has all the steps of its template",
        "SELECT t.task_id::text FROM tasks t
          WHERE t.steps_total <> (SELECT count(*) FROM template_steps d WHERE d.template_id = t.template_id)",
    ),
    (
        "the task knows which steps are done",
        "SELECT s.task_id || '/' || s.step FROM step_status s JOIN tasks t USING (task_id)
          WHERE (get_bit(t.steps_done, s.step) = 1) <> (s.state IN ('complete', 'skipped', 'resolved_manually'))",
    ),
    (
        "a complete task has steps only that are done, a cancelled one no pending ones",
        "SELECT s.task_id || '/' || s.step FROM step_status s JOIN tasks t USING (task_id)
          WHERE (t.state = 'complete' AND s.state NOT IN ('complete', 'skipped', 'resolved_manually')) OR (t.state = 'cancelled' AND s.state = 'pending')",
    ),
    (
        "all parents of a step in play are done",
        "SELECT q.task_id || '/' || q.step FROM queue q
          WHERE EXISTS (
                SELECT FROM edges e JOIN step_status p ON p.task_id = q.task_id AND p.step = e.parent
                 WHERE e.template_id = q.template_id AND e.step = q.step AND p.state NOT IN ('complete', 'skipped', 'resolved_manually'))",
    ),
    (
        "a pending step whose parents are all done is in play",
        "SELECT s.task_id || '/' || s.step FROM step_status s JOIN tasks t USING (task_id)
          WHERE t.ended_at IS NULL AND s.state = 'pending'
            AND NOT EXISTS (SELECT FROM queue q WHERE q.task_id = s.task_id AND q.step = s.step)
            AND NOT EXISTS (
                SELECT FROM edges e JOIN step_status p ON p.task_id = s.task_id AND p.step = e.parent
                 WHERE e.template_id = t.template_id AND e.step = s.step AND p.state NOT IN ('complete', 'skipped', 'resolved_manually'))",
    ),
    (
        "a running attempt has a worker",
        "SELECT q.task_id || '/' || q.step FROM queue q LEFT JOIN workers w USING (worker_id)
          WHERE q.state = 'in_progress' AND w.worker_id IS NULL",
    ),
    (
        "attempts are numbered from 1 without gaps, and the step knows the last one and how many were charged",
        "SELECT n.task_id || '/' || n.step || ': ' || n::text FROM (
             SELECT s.task_id, s.step, s.attempt AS last, s.charged, s.state = 'in_progress' AS runs,
                    count(a.attempt) AS ended, count(DISTINCT a.attempt) AS numbers, coalesce(max(a.attempt), 0) AS highest,
                    count(*) FILTER (WHERE a.charged) AS counted
               FROM step_status s LEFT JOIN attempts a USING (task_id, step)
              GROUP BY 1, 2, 3, 4, 5) n
          WHERE ended <> numbers OR ended <> highest OR last <> ended + runs::int OR charged > counted
             OR charged <> counted AND NOT EXISTS (
                SELECT FROM events r WHERE r.task_id = n.task_id AND r.step = n.step AND r.type = 'step.reopened')",
    ),
    (
        "each attempt started once, and only attempts that ended or run did",
        "SELECT n.task_id || '/' || n.step || ': ' || n::text FROM (
             SELECT s.task_id, s.step, s.attempt AS attempts, coalesce(e.started, 0) AS started,
                    coalesce(e.numbers, 0) AS numbers
               FROM step_status s
               LEFT JOIN (SELECT task_id, step, count(*) AS started, count(DISTINCT attempt) AS numbers
                            FROM events WHERE type = 'step.started' GROUP BY 1, 2) e USING (task_id, step)) n
          WHERE started <> attempts OR numbers <> attempts",
    ),
    (
        "a step is complete if and only if one attempt succeeded",
        "SELECT s.task_id || '/' || s.step FROM step_status s
          WHERE (s.state = 'complete')::int <>
                (SELECT count(*) FROM attempts a
                  WHERE a.task_id = s.task_id AND a.step = s.step AND a.outcome = 'succeeded')",
    ),
    (
        "no two attempts share a lease",
        "SELECT task_id || '/' || step FROM attempts GROUP BY task_id, step, lease HAVING count(*) > 1",
    ),
    (
        "a task was submitted once, started at most once, and ended once if it is final",
        "SELECT n.task_id || ': ' || n::text FROM (
             SELECT t.task_id, t.state, t.started_at IS NOT NULL AS started, t.ended_at IS NOT NULL AS ended,
                    coalesce(e.submits, 0) AS submits, coalesce(e.starts, 0) AS starts, coalesce(e.ends, 0) AS ends
               FROM tasks t
               LEFT JOIN (SELECT task_id, count(*) FILTER (WHERE type = 'task.submitted') AS submits,
                                 count(*) FILTER (WHERE type = 'task.started') AS starts,
                                 count(*) FILTER (WHERE type IN ('task.completed', 'task.failed', 'task.cancelled'))
                                 - count(*) FILTER (WHERE type = 'task.reopened') AS ends
                            FROM events WHERE task_id IS NOT NULL GROUP BY 1) e USING (task_id)) n
          WHERE submits <> 1 OR starts <> started::int OR ends <> ended::int",
    ),
    (
        "no step started before its parents ended",
        "SELECT a.task_id || '/' || a.step FROM attempts a
           JOIN tasks t USING (task_id)
           JOIN edges e ON e.template_id = t.template_id AND e.step = a.step
           JOIN step_status p ON p.task_id = a.task_id AND p.step = e.parent
          WHERE p.ended_at IS NULL OR a.started_at < p.ended_at",
    ),
];

/// Statistics lag behind tables that grow by thousands of rows a second; the planner would then
/// choose nested loops where a hash join is needed.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ;
                     SET LOCAL enable_nestloop = off; SET LOCAL jit = off; SET LOCAL work_mem = '64MB'";

/// Panics with the invariants that do not hold.
pub async fn invariants(db: &Client) {
    assert_none(broken(db).await);
}

/// For a test that breaks rows by hand: all other invariants hold again once the auditor has
/// repaired the rows.
pub async fn invariants_after_repairs(db: &Client) {
    assert_none(broken_of(db, &INVARIANTS[1..]).await);
}

fn assert_none(broken: Result<Vec<String>, tokio_postgres::Error>) {
    let broken = broken.unwrap_or_else(|error| panic!("{error}: {error:?}"));
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// The invariants that do not hold. One snapshot serves all queries, so this may run at any time.
pub async fn broken(db: &Client) -> Result<Vec<String>, tokio_postgres::Error> {
    broken_of(db, INVARIANTS).await
}

async fn broken_of(
    db: &Client,
    all: &[(&str, &str)],
) -> Result<Vec<String>, tokio_postgres::Error> {
    db.batch_execute(BEGIN).await?;
    make_edges(db).await?;
    let mut broken = Vec::new();
    for (sentence, query) in all {
        let rows = db.query(&format!("{query} LIMIT 5"), &[]).await?;
        let rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        if !rows.is_empty() {
            broken.push(format!("not so: {sentence}: {}", rows.join(", ")));
        }
    }
    db.batch_execute("ROLLBACK").await?;
    Ok(broken)
}

/// Only the text of the templates contains the graphs; the queries need them as rows.
async fn make_edges(db: &Client) -> Result<(), tokio_postgres::Error> {
    db.batch_execute(
        "CREATE TEMP TABLE edges (template_id int, step smallint, parent smallint) ON COMMIT DROP",
    )
    .await?;
    for row in db
        .query("SELECT template_id, yaml FROM templates", &[])
        .await?
    {
        let Ok(template) = Template::parse(row.get(1), "") else {
            continue;
        };
        let graph = Graph::of(&template);
        for step in graph.steps() {
            for parent in graph.parents(step) {
                let (step, parent) = (i16::from(step), i16::from(*parent));
                let insert = "INSERT INTO edges VALUES ($1, $2, $3)";
                db.execute(insert, &[&row.get::<_, i32>(0), &step, &parent])
                    .await?;
            }
        }
    }
    Ok(())
}
