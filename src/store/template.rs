//! Templates and the lanes of their steps.

use std::time::SystemTime;

use tokio_postgres::Row;

use super::{Db, StoreError};

/// Bounds of a page: templates, bytes of text (the template that reaches the bound is the last),
/// and lanes. A page is read and compiled into plans well within the limit of one read.
pub const PAGE_TEMPLATES: i64 = 200;
pub const PAGE_BYTES: i64 = 1 << 20;
pub const PAGE_LANES: i64 = 10_000;

/// A registered template, still as text.
#[derive(Clone, Debug)]
pub struct TemplateRow {
    pub template_id: i32,
    pub namespace: String,
    pub task_name: String,
    pub version: String,
    pub yaml: String,
    /// The environment in which it is resolved.
    pub environment: String,
    pub registered_at: SystemTime,
    /// The lane of each step, in the template's order.
    pub lanes: Vec<i32>,
}

/// A lane: the steps that share all of these values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneRow {
    pub lane_id: i32,
    pub task_name: String,
    pub namespace: String,
    pub handler: String,
    pub service: String,
    pub service_id: i32,
}

/// A step of a template to register.
#[derive(Clone, Copy, Debug)]
pub struct NewStep<'a> {
    pub name: &'a str,
    pub handler: &'a str,
    pub service: &'a str,
}

/// A template to register.
#[derive(Clone, Copy, Debug)]
pub struct NewTemplate<'a> {
    pub namespace: &'a str,
    pub task_name: &'a str,
    pub version: &'a str,
    pub yaml: &'a str,
    pub environment: &'a str,
    pub steps: &'a [NewStep<'a>],
}

/// How far a server has read the templates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Newest {
    /// The id of the newest template.
    pub template: i32,
    /// The number of the newest change of a template (`retirement`).
    pub change: i64,
}

/// The result of a registration.
#[derive(Clone, Debug)]
pub enum Registration {
    Created(TemplateRow),
    /// The version existed before; its content may or may not be the same.
    Existing(TemplateRow),
}

/// Takes the lock for changes of the set of templates and lanes, until the transaction ends. So ids
/// become visible in ascending order, and a reader that knows the largest id knows all of them.
pub(super) const TURN: &str =
    "SELECT pg_advisory_xact_lock(hashtext('tasker templates ' || current_schema()))";

const SELECT: &str = "
    SELECT t.template_id, t.namespace, t.task_name, t.version, t.yaml, t.registered_at, t.environment,
           (SELECT array_agg(s.lane_id ORDER BY s.step) FROM template_steps s WHERE s.template_id = t.template_id)
      FROM templates t";

/// The first templates registered after the one with id `known` (0 for all), oldest first: as many
/// as fit a page. An empty page means that none are left.
pub async fn page(db: &Db, known: i32) -> Result<Vec<TemplateRow>, StoreError> {
    let client = db.read().await?;
    // `octet_length` reads the size of a text without the text.
    let statement = client
        .prepare_cached(&format!(
            "{SELECT}
              JOIN (SELECT p.template_id, sum(p.bytes) OVER (ORDER BY p.template_id) - p.bytes AS before
                      FROM (SELECT n.template_id, octet_length(n.yaml)::int8 AS bytes FROM templates n
                             WHERE n.template_id > $1 ORDER BY n.template_id LIMIT $2) p) q ON q.template_id = t.template_id
             WHERE q.before < $3::int8 ORDER BY t.template_id"
        ))
        .await?;
    let (most, bytes) = (PAGE_TEMPLATES, PAGE_BYTES);
    let rows = client.query(&statement, &[&known, &most, &bytes]).await?;
    Ok(rows.iter().map(row).collect())
}

/// The first lanes with an id above `known`: as many as fit a page. An empty page means that none
/// are left.
pub async fn lanes_page(db: &Db, known: i32) -> Result<Vec<LaneRow>, StoreError> {
    let client = db.read().await?;
    let sql = "SELECT lane_id, namespace, handler, service, service_id, task_name FROM lanes
                WHERE lane_id > $1 ORDER BY lane_id LIMIT $2";
    let statement = client.prepare_cached(sql).await?;
    let lane = |r: &Row| LaneRow {
        lane_id: r.get(0),
        namespace: r.get(1),
        handler: r.get(2),
        service: r.get(3),
        service_id: r.get(4),
        task_name: r.get(5),
    };
    let rows = client.query(&statement, &[&known, &PAGE_LANES]).await?;
    Ok(rows.iter().map(lane).collect())
}

/// Stores a template unless its version is taken.
pub async fn register(
    db: &Db,
    new: NewTemplate<'_>,
    wake: &str,
) -> Result<Registration, StoreError> {
    let mut client = db.read().await?;
    let tx = client.transaction().await?;
    // Before the look-up: a concurrent registration of this version has then committed, or waits.
    tx.execute(TURN, &[]).await?;
    let by_name =
        format!("{SELECT} WHERE t.namespace = $1 AND t.task_name = $2 AND t.version = $3");
    if let Some(found) = tx
        .query_opt(&by_name, &[&new.namespace, &new.task_name, &new.version])
        .await?
    {
        // Nothing was written, so the drop of the transaction, which releases the lock, is enough.
        return Ok(Registration::Existing(row(&found)));
    }
    let id: i32 = tx
        .query_one(
            "INSERT INTO templates (namespace, task_name, version, yaml, environment) VALUES ($1, $2, $3, $4, $5)
             RETURNING template_id",
            &[&new.namespace, &new.task_name, &new.version, &new.yaml, &new.environment],
        )
        .await?
        .get(0);
    let names: Vec<&str> = new.steps.iter().map(|s| s.name).collect();
    let handlers: Vec<&str> = new.steps.iter().map(|s| s.handler).collect();
    let services: Vec<&str> = new.steps.iter().map(|s| s.service).collect();
    // Services before lanes before steps: each statement reads the rows of the one before.
    tx.execute(
        "INSERT INTO services (namespace, service)
         SELECT DISTINCT $1, u.service FROM unnest($2::text[]) AS u(service)
             ON CONFLICT DO NOTHING",
        &[&new.namespace, &services],
    )
    .await?;
    // Lanes and services are shared between versions, so most of them exist already and stay.
    tx.execute(
        "INSERT INTO lanes (namespace, task_name, handler, service, service_id)
         SELECT DISTINCT $1, $4, u.handler, u.service, s.service_id
           FROM unnest($2::text[], $3::text[]) AS u(handler, service)
           JOIN services s ON s.namespace = $1 AND s.service = u.service
             ON CONFLICT DO NOTHING",
        &[&new.namespace, &handlers, &services, &new.task_name],
    )
    .await?;
    tx.execute(
        "INSERT INTO template_steps (template_id, step, name, lane_id)
         SELECT $1, u.position - 1, u.name, l.lane_id
           FROM unnest($2::text[], $3::text[], $4::text[]) WITH ORDINALITY AS u(name, handler, service, position)
           JOIN lanes l ON l.namespace = $5 AND l.task_name = $6 AND l.handler = u.handler AND l.service = u.service",
        &[&id, &names, &handlers, &services, &new.namespace, &new.task_name],
    )
    .await?;
    // Delivered by the commit, so a server that reads upon it finds the template.
    tx.execute("SELECT pg_notify($1, $2)", &[&db.channel(), &wake])
        .await?;
    // Read back, because the time of the registration and the lanes come from the database.
    let stored = tx
        .query_one(&by_name, &[&new.namespace, &new.task_name, &new.version])
        .await?;
    tx.commit().await?;
    Ok(Registration::Created(row(&stored)))
}

fn row(r: &Row) -> TemplateRow {
    TemplateRow {
        template_id: r.get(0),
        namespace: r.get(1),
        task_name: r.get(2),
        version: r.get(3),
        yaml: r.get(4),
        registered_at: r.get(5),
        environment: r.get(6),
        // `array_agg` of no rows is NULL.
        lanes: r.get::<_, Option<Vec<i32>>>(7).unwrap_or_default(),
    }
}
