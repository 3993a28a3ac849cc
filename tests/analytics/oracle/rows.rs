//! All relevant rows, as they are stored.

use std::{collections::BTreeMap, time::SystemTime};

use tasker::domain::policy::Settings;
use tasker_template::{Graph, Template};
use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::{Oracle, Us, us};

pub(super) struct Lane {
    pub(super) namespace: String,
    pub(super) handler: String,
    pub(super) service: i32,
}

pub(super) struct Try {
    pub(super) ready: Us,
    pub(super) started: Us,
    pub(super) ended: Us,
    pub(super) charged: bool,
    pub(super) again: bool,
    pub(super) retry_after: Us,
}

pub(super) struct Step {
    pub(super) state: String,
    pub(super) attempt: i32,
    pub(super) ready: Us,
    pub(super) started: Option<Us>,
    pub(super) ended: Us,
    pub(super) tries: Vec<Try>,
}

pub(super) struct Task {
    pub(super) template: i32,
    pub(super) state: String,
    pub(super) submitted: Us,
    pub(super) ended: Option<Us>,
    pub(super) steps: BTreeMap<i16, Step>,
}

pub(super) struct Change {
    pub(super) at: Us,
    pub(super) kind: String,
    pub(super) until: Option<Us>,
    pub(super) opens: bool,
}

pub(super) struct Presence {
    pub(super) handlers: Vec<String>,
    pub(super) namespaces: Vec<String>,
    pub(super) from: Us,
    pub(super) until: Us,
}

impl Oracle {
    pub async fn read(db: &Client) -> Self {
        let mut o = Self {
            graphs: BTreeMap::new(),
            lanes: BTreeMap::new(),
            tasks: BTreeMap::new(),
            changes: BTreeMap::new(),
            workers: Vec::new(),
            limits: BTreeMap::new(),
            runs: BTreeMap::new(),
        };
        o.read_templates(db).await;
        o.read_tasks(db).await;
        o.read_attempts(db).await;
        o.read_circumstances(db).await;
        o
    }

    async fn read_templates(&mut self, db: &Client) {
        for r in rows(db, "SELECT template_id, yaml FROM templates").await {
            let template = Template::parse(r.get(1), "").unwrap();
            let graph = Graph::of(&template);
            self.graphs.insert(r.get(0), (template, graph));
        }
        let sql = "SELECT template_id, step, namespace, handler, service_id FROM template_steps JOIN lanes USING (lane_id)";
        for r in rows(db, sql).await {
            self.lanes.insert(
                (r.get(0), r.get(1)),
                Lane {
                    namespace: r.get(2),
                    handler: r.get(3),
                    service: r.get(4),
                },
            );
        }
    }

    async fn read_tasks(&mut self, db: &Client) {
        for r in rows(
            db,
            "SELECT task_id, template_id, state::text, submitted_at, ended_at FROM tasks",
        )
        .await
        {
            let task = Task {
                template: r.get(1),
                state: r.get(2),
                submitted: time(&r, 3),
                ended: maybe(&r, 4),
                steps: BTreeMap::new(),
            };
            self.tasks.insert(r.get(0), task);
        }
        let sql =
            "SELECT task_id, step, state::text, attempt, ready_at, started_at, ended_at FROM steps";
        for r in rows(db, sql).await {
            let step = Step {
                state: r.get(2),
                attempt: r.get(3),
                ready: time(&r, 4),
                started: maybe(&r, 5),
                ended: time(&r, 6),
                tries: Vec::new(),
            };
            self.tasks
                .get_mut(&r.get::<_, Uuid>(0))
                .unwrap()
                .steps
                .insert(r.get(1), step);
        }
    }

    async fn read_attempts(&mut self, db: &Client) {
        let sql = "SELECT task_id, step, ready_at, started_at, ended_at, charged, next_attempt_at IS NOT NULL,
                          coalesce(extract(epoch FROM retry_after) * 1000000, 0)::int8
                     FROM attempts ORDER BY task_id, step, attempt";
        for r in rows(db, sql).await {
            let task = self.tasks.get_mut(&r.get::<_, Uuid>(0)).unwrap();
            let lane = &self.lanes[&(task.template, r.get(1))];
            self.runs
                .entry(lane.service)
                .or_default()
                .push((time(&r, 3), time(&r, 4)));
            let Some(step) = task.steps.get_mut(&r.get::<_, i16>(1)) else {
                continue;
            };
            step.tries.push(Try {
                ready: time(&r, 2),
                started: time(&r, 3),
                ended: time(&r, 4),
                charged: r.get(5),
                again: r.get(6),
                retry_after: r.get(7),
            });
        }
        self.runs.values_mut().for_each(|runs| runs.sort_unstable());
    }

    async fn read_circumstances(&mut self, db: &Client) {
        let sql = "SELECT service_id, at, type::text, until, coalesce(detail LIKE 'open:%', false) FROM circuit_changes
                    ORDER BY at, change_id";
        for r in rows(db, sql).await {
            let change = Change {
                at: time(&r, 1),
                kind: r.get(2),
                until: maybe(&r, 3),
                opens: r.get(4),
            };
            self.changes.entry(r.get(0)).or_default().push(change);
        }
        let sql = "SELECT handlers, namespaces, connected_at, coalesce(ended_at, lease_expires_at) FROM workers";
        for r in rows(db, sql).await {
            self.workers.push(Presence {
                handlers: r.get(0),
                namespaces: r.get(1),
                from: time(&r, 2),
                until: time(&r, 3),
            });
        }
        let sql = "SELECT service_id, policy FROM service_policies JOIN services USING (namespace, service)";
        for r in rows(db, sql).await {
            let set = Settings::from_json(r.get(1)).unwrap();
            let rate = set.per_second.unwrap_or_default();
            let burst = set
                .burst
                .filter(|n| *n > 0)
                .map_or(rate.max(1.0), f64::from);
            self.limits.insert(
                r.get(0),
                (
                    set.max_concurrency.unwrap_or_default() as usize,
                    rate,
                    burst,
                ),
            );
        }
    }
}

fn time(row: &Row, i: usize) -> Us {
    us(row.get(i))
}

fn maybe(row: &Row, i: usize) -> Option<Us> {
    row.get::<_, Option<SystemTime>>(i).map(us)
}

async fn rows(db: &Client, sql: &str) -> Vec<Row> {
    db.query(sql, &[]).await.unwrap()
}
