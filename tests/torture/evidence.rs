//! Reads the rows that a run left in the database. Steps and attempts are read through the public
//! views.

use std::collections::BTreeMap;

use tasker_template::{Graph, Template};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use crate::checker::history::{
    Attempt, Event, History, Micros, Plan, PlannedStep, Shut, Step, Task, Worker,
};

/// Fills in the database's part of the history.
pub async fn read(db: &Client, history: &mut History) {
    history.plans = plans(db).await;
    history.tasks = rows(db, TASKS, task).await;
    history.steps = rows(db, STEPS, step).await;
    history.attempts = rows(db, ATTEMPTS, attempt).await;
    history.events = rows(db, EVENTS, event).await;
    history.workers = rows(db, WORKERS, worker).await.into_iter().collect();
    history.shut = rows(db, &SHUT.replace("STATE", "circuit.opened"), shut).await;
    history.probing = rows(db, &SHUT.replace("STATE", "circuit.half_opened"), shut).await;
}

async fn rows<T>(db: &Client, sql: &str, read: fn(&Row) -> T) -> Vec<T> {
    let sql = sql.replace("micros(", "(1000000 * extract(epoch FROM ");
    let rows = db
        .query(&sql, &[])
        .await
        .unwrap_or_else(|error| panic!("{error:?}: {sql}"));
    rows.iter().map(read).collect()
}

async fn plans(db: &Client) -> BTreeMap<i32, Plan> {
    let sql = "SELECT template_id, yaml, (SELECT array_agg(l.service_id ORDER BY s.step) FROM template_steps s
                 JOIN lanes l USING (lane_id) WHERE s.template_id = t.template_id) FROM templates t";
    let rows = db.query(sql, &[]).await.unwrap();
    rows.iter()
        .map(|row| {
            (
                row.get(0),
                plan(&Template::parse(row.get(1), "").unwrap(), row.get(2)),
            )
        })
        .collect()
}

fn plan(template: &Template, services: Vec<i32>) -> Plan {
    let graph = Graph::of(template);
    let steps =
        template
            .steps
            .iter()
            .zip(graph.steps())
            .zip(services)
            .map(|((step, i), service)| PlannedStep {
                name: step.name.clone(),
                service,
                parents: graph.parents(i).iter().copied().map(usize::from).collect(),
                ancestors: graph
                    .ancestors(i)
                    .iter()
                    .copied()
                    .map(usize::from)
                    .collect(),
                retry_limit: step.retry_limit.try_into().unwrap(),
                timeout: step.timeout.as_micros().try_into().unwrap(),
            });
    Plan {
        name: format!("{}/{}", template.namespace, template.task_name),
        steps: steps.collect(),
    }
}

const TASKS: &str = "
    SELECT task_id, template_id, state::text, correlation_id, context, micros(submitted_at))::int8,
           micros(started_at))::int8, micros(ended_at))::int8
      FROM tasks";

fn task(r: &Row) -> Task {
    Task {
        id: r.get(0),
        template: r.get(1),
        state: r.get(2),
        correlation_id: r.get(3),
        context: r.get(4),
        submitted_at: r.get(5),
        started_at: r.get(6),
        ended_at: r.get(7),
    }
}

const STEPS: &str = "
    SELECT task_id, step, state::text, attempt::int, charged::int, result, error_code, micros(ended_at))::int8
      FROM step_status";

fn step(r: &Row) -> Step {
    Step {
        task: r.get(0),
        step: r.get(1),
        state: r.get(2),
        attempt: r.get(3),
        charged: r.get(4),
        result: r.get(5),
        error_code: r.get(6),
        ended_at: r.get(7),
    }
}

const ATTEMPTS: &str = "
    SELECT task_id, step, attempt::int, outcome::text, charged, lease, worker_id, micros(started_at))::int8,
           micros(ended_at))::int8, micros(next_attempt_at))::int8, micros(retry_after))::int8, error_code
      FROM attempts";

fn attempt(r: &Row) -> Attempt {
    Attempt {
        task: r.get(0),
        step: r.get(1),
        attempt: r.get(2),
        outcome: r.get(3),
        charged: r.get(4),
        lease: r.get(5),
        worker: r.get(6),
        started_at: r.get(7),
        ended_at: r.get(8),
        next_attempt_at: r.get(9),
        retry_after: r.get(10),
        error_code: r.get(11),
    }
}

/// By `seq`: a transaction draws it while it holds the locks of its rows, so causes have lower
/// numbers than their effects. The order by transaction lacks that property: a transaction may get
/// its number before its locks.
const EVENTS: &str = "
    SELECT task_id, type::text, micros(at))::int8, step, attempt::int, outcome::text, detail
      FROM events WHERE task_id IS NOT NULL ORDER BY seq";

fn event(r: &Row) -> Event {
    Event {
        task: r.get(0),
        kind: r.get(1),
        at: r.get::<_, Micros>(2),
        step: r.get(3),
        attempt: r.get(4),
        outcome: r.get(5),
        detail: r.get(6),
    }
}

const WORKERS: &str = "
    SELECT worker_id, draining, micros(lease_expires_at))::int8, micros(ended_at))::int8 FROM workers";

fn worker(r: &Row) -> (Uuid, Worker) {
    (
        r.get(0),
        Worker {
            draining: r.get(1),
            lease_expires_at: r.get(2),
            ended_at: r.get(3),
        },
    )
}

/// A circuit is open until its next change of state. Pauses are not checked: a transaction that
/// read the clock before a pause's end may extend the pause's row and commit after it, so a start
/// in between was right.
const SHUT: &str = "
    SELECT service_id, type::text, micros(at))::int8, micros(until))::int8 FROM (
        SELECT service_id, type, at, next AS until FROM (
            SELECT service_id, type, at, lead(at, 1, now()) OVER (PARTITION BY service_id ORDER BY change_id) AS next
              FROM circuit_changes
             WHERE type IN ('circuit.opened', 'circuit.half_opened', 'circuit.closed', 'circuit.reset')) c
         WHERE type = 'STATE') s";

fn shut(r: &Row) -> Shut {
    Shut {
        service: r.get(0),
        why: r.get(1),
        from: r.get(2),
        until: r.get(3),
    }
}
