//! Looks up the data of events that are not in their rows: names by their numbers, and the constant
//! data of tasks. Each query resolves many events.

use std::{collections::HashMap, time::SystemTime};

use uuid::Uuid;

use crate::store::{Db, StoreError};

/// A template's names, and those of its steps by position.
#[derive(Clone, Debug, Default)]
pub struct TemplateNames {
    pub namespace: String,
    pub task_name: String,
    pub version: String,
    pub steps: Vec<StepNames>,
}

#[derive(Clone, Debug, Default)]
pub struct StepNames {
    pub name: String,
    pub handler: String,
    pub service: String,
}

#[derive(Clone, Debug)]
pub struct ServiceName {
    pub namespace: String,
    pub service: String,
}

/// The data common to every event of a task.
#[derive(Clone, Debug)]
pub struct TaskFacts {
    pub correlation_id: String,
    pub submitted_at: SystemTime,
    pub started_at: Option<SystemTime>,
}

pub const TASKS: &str = "
    SELECT task_id, correlation_id, submitted_at, started_at FROM tasks WHERE task_id = ANY($1::uuid[])";

/// The data of those tasks that still exist.
pub async fn tasks(db: &Db, ids: &[Uuid]) -> Result<HashMap<Uuid, TaskFacts>, StoreError> {
    let client = db.read().await?;
    let rows = client
        .query(&client.prepare_cached(TASKS).await?, &[&ids])
        .await?;
    let facts = |row: &tokio_postgres::Row| TaskFacts {
        correlation_id: row.get(1),
        submitted_at: row.get(2),
        started_at: row.get(3),
    };
    Ok(rows.iter().map(|row| (row.get(0), facts(row))).collect())
}

pub async fn templates(db: &Db, ids: &[i32]) -> Result<HashMap<i32, TemplateNames>, StoreError> {
    let client = db.read().await?;
    let sql =
        "SELECT t.template_id, t.namespace, t.task_name, t.version, s.name, l.handler, l.service
                 FROM templates t
                 LEFT JOIN template_steps s USING (template_id)
                 LEFT JOIN lanes l USING (lane_id)
                WHERE t.template_id = ANY($1)
                ORDER BY t.template_id, s.step";
    let mut found = HashMap::<i32, TemplateNames>::new();
    for row in client
        .query(&client.prepare_cached(sql).await?, &[&ids])
        .await?
    {
        let names = found.entry(row.get(0)).or_insert_with(|| TemplateNames {
            namespace: row.get(1),
            task_name: row.get(2),
            version: row.get(3),
            steps: Vec::new(),
        });
        // Pushed in the order of the steps, as `Event::step` is an index into this list.
        if let Some(name) = row.get(4) {
            names.steps.push(StepNames {
                name,
                handler: row.get(5),
                service: row.get(6),
            });
        }
    }
    Ok(found)
}

pub async fn services(db: &Db, ids: &[i32]) -> Result<HashMap<i32, ServiceName>, StoreError> {
    let client = db.read().await?;
    let sql = "SELECT service_id, namespace, service FROM services WHERE service_id = ANY($1)";
    let rows = client
        .query(&client.prepare_cached(sql).await?, &[&ids])
        .await?;
    Ok(rows
        .iter()
        .map(|row| {
            (
                row.get(0),
                ServiceName {
                    namespace: row.get(1),
                    service: row.get(2),
                },
            )
        })
        .collect())
}

/// The names of those connections whose rows still exist.
pub async fn workers(db: &Db, ids: &[Uuid]) -> Result<HashMap<Uuid, String>, StoreError> {
    let client = db.read().await?;
    let sql = "SELECT worker_id, name FROM workers WHERE worker_id = ANY($1)";
    let rows = client
        .query(&client.prepare_cached(sql).await?, &[&ids])
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
