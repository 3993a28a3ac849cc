//! Where the time of tasks went, computed from the stored rows. One read-only transaction answers a
//! query, so from one snapshot.

mod ledger;

use std::time::SystemTime;

use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    Db, StoreError,
    deadline::DeadlineTransaction,
    service::policy::{self, Policies},
};
use crate::domain::analytics::{Ledger, MAX_SECONDS, Measure, Service, Times};

/// The statement sorts and joins each input once, so unlike everywhere else hash joins are right
/// and nested loops are wrong: the planner has no statistics on intermediate results. Tables are
/// still looked up by their keys, which the statement itself requests.
const SETTINGS: &str = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY;
                        SET LOCAL plan_cache_mode = force_custom_plan; SET LOCAL enable_hashjoin = on;
                        SET LOCAL enable_nestloop = off; SET LOCAL work_mem = '64MB'";

/// A query.
#[derive(Clone, Debug)]
pub struct Question<'a> {
    pub templates: &'a [i32],
    /// Dependencies between steps: (template, step, parent).
    pub edges: &'a [(i32, i16, i16)],
    pub window_seconds: f64,
    pub max_tasks: i64,
    pub timeout_seconds: Option<f64>,
}

/// The answer.
#[derive(Clone, Debug)]
pub struct Found {
    pub from: SystemTime,
    pub to: SystemTime,
    pub tasks: i32,
    /// Whether there were more tasks than the bound.
    pub cut: bool,
    /// Ordered by template and step; the row without a step is the template's own, and comes first.
    pub measures: Vec<(i32, Option<i16>, Measure)>,
    /// Ordered by namespace and name.
    pub services: Vec<Service>,
}

/// Those services of the templates that have a limit.
#[derive(Default)]
struct Limits {
    services: Vec<i32>,
    at_once: Vec<i64>,
    per_second: Vec<f64>,
    burst: Vec<f64>,
}

/// Answers a query; `None` if it exceeds [`MAX_SECONDS`].
pub async fn ask(db: &Db, question: &Question<'_>) -> Result<Option<Found>, StoreError> {
    let policies = policy::read(db).await?;
    let mut session = db.long_read().await?;
    let tx = session.transaction().await?;
    // The isolation level can only be set before the first query of a transaction.
    tx.batch_execute(&format!(
        "{SETTINGS}; SET LOCAL statement_timeout = '{MAX_SECONDS}s'"
    ))
    .await?;
    match answer(&tx, question, &policies).await {
        // A window with too many tasks is the caller's mistake and no failure of the database.
        Err(error) if error.is_timeout() => Ok(None),
        found => found.map(Some),
    }
}

const WINDOW: &str = "
    SELECT now(), w.begins, c.task_id IS NOT NULL, coalesce(c.task_id, first_task_id(w.begins)),
           least(now() - interval '1 day', (SELECT min(ended_at) FROM workers))
      FROM (SELECT now() - make_interval(secs => $2::float8) AS begins) w
      LEFT JOIN LATERAL (
           SELECT task_id FROM tasks
            WHERE template_id = ANY($1::int4[]) AND task_id > first_task_id(w.begins) AND steps_total > 0
            ORDER BY task_id DESC OFFSET $3::int8 LIMIT 1) c ON true";

const USED_SERVICES: &str = "
    SELECT service_id, namespace, service FROM services
     WHERE service_id IN (SELECT l.service_id FROM template_steps d JOIN lanes l ON l.lane_id = d.lane_id
                           WHERE d.template_id = ANY($1::int4[]))";

async fn answer(
    tx: &DeadlineTransaction<'_>,
    question: &Question<'_>,
    policies: &Policies,
) -> Result<Found, StoreError> {
    let window = tx
        .query_one(
            WINDOW,
            &[
                &question.templates,
                &question.window_seconds,
                &question.max_tasks,
            ],
        )
        .await?;
    let (to, from): (SystemTime, SystemTime) = (window.get(0), window.get(1));
    // Retention keeps ended connections of workers for a day at least, so all that ended after
    // `known` are in the table; for the time before, the ledger takes one worker as present.
    let (above, known): (Uuid, SystemTime) = (window.get(3), window.get(4));
    let used = tx.query(USED_SERVICES, &[&question.templates]).await?;
    let services: Vec<i32> = used.iter().map(|row| row.get(0)).collect();
    // Resolved here and passed as arrays: how policies of cell, namespace and service are layered
    // is code of the domain, not SQL.
    let limits = limits(&used, policies);
    let (mut templates, mut steps, mut parents) = (Vec::new(), Vec::new(), Vec::new());
    for (template, step, parent) in question.edges {
        templates.push(*template);
        steps.push(*step);
        parents.push(*parent);
    }
    let timeout = question.timeout_seconds.map(micros);
    let rows = tx
        .query(
            &ledger::ledger(),
            &[
                &services,
                &from,
                &question.templates,
                &above,
                &templates,
                &steps,
                &parents,
                &limits.services,
                &limits.at_once,
                &limits.per_second,
                &limits.burst,
                &timeout,
                &known,
            ],
        )
        .await?;
    // The rows of templates count ended tasks only; this number includes those that still run.
    let count = "SELECT count(*)::int FROM tasks WHERE template_id = ANY($1::int4[]) AND task_id > $2 AND steps_total > 0";
    let tasks = tx
        .query_one(count, &[&question.templates, &above])
        .await?
        .get(0);
    let found = tx.query(&ledger::services(), &[&services, &from]).await?;
    Ok(Found {
        from,
        to,
        tasks,
        cut: window.get(2),
        measures: rows
            .iter()
            .map(|row| (row.get(0), row.get(1), measure(row)))
            .collect(),
        services: found.iter().map(service).collect(),
    })
}

fn limits(used: &[Row], policies: &Policies) -> Limits {
    let mut limits = Limits::default();
    for row in used {
        let policy = policies.of_service(row.get(1), row.get(2));
        // A service without a limit stays out of the list, since the statement reads all attempts
        // of the window for each service in it.
        if policy.max_concurrency > 0 || policy.per_second > 0.0 {
            limits.services.push(row.get(0));
            limits.at_once.push(policy.max_concurrency.into());
            limits.per_second.push(policy.per_second);
            limits.burst.push(policy.bucket());
        }
    }
    limits
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a day of microseconds at most"
)]
fn micros(seconds: f64) -> i64 {
    (seconds * 1e6).round() as i64
}

fn measure(row: &Row) -> Measure {
    let times = |i: usize| {
        let percentiles: Vec<f64> = row.get(i + 1);
        let nth = |n: usize| percentiles.get(n).copied().unwrap_or_default();
        Times {
            mean: row.get(i),
            p50: nth(0),
            p95: nth(1),
            p99: nth(2),
            max: row.get(i + 2),
        }
    };
    let ledger = |i: usize| Ledger::from(row.get::<_, Vec<i64>>(i));
    Measure {
        count: row.get(2),
        complete: row.get(3),
        failed: row.get(4),
        tried_again: row.get(5),
        charged: row.get(6),
        free: row.get(7),
        ledger: ledger(8),
        critical: ledger(9),
        wall: row.get(10),
        elapsed: times(11),
        run: times(14),
        wait: times(17),
        longest_success: row.get(20),
        over_timeout: row.get(21),
        cancelled: row.get(22),
        skipped: row.get(23),
        resolved: row.get(24),
    }
}

fn service(row: &Row) -> Service {
    Service {
        namespace: row.get(0),
        name: row.get(1),
        times_opened: row.get(2),
        shut: row.get(3),
        throttles: row.get(4),
        throttled: row.get(5),
    }
}
