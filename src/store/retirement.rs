//! Retired versions, which take no new tasks, and the removal of those that nothing uses any more.

use std::time::SystemTime;

use tokio_postgres::{Client, Row};
use uuid::Uuid;

use super::{Db, StoreError, deadline::DeadlineTransaction, service::Actor, template::TURN};

/// Bound on the changes of a page.
pub const PAGE_CHANGES: i64 = 10_000;
/// Bound on the queue rows of a version that are counted.
pub const MAX_COUNTED: i64 = 10_000;
/// Bound on the templates removed in one transaction.
const MAX_REMOVED: i64 = 100;
/// Limit on an order's wait for the submits under way; submits that arrive meanwhile queue behind
/// it.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '200ms'";
/// Every transaction that stores tasks takes a weaker lock on this table before it reads which
/// versions are retired (`pipeline::statement::newest_template`). This lock does not conflict with readers
/// and backups.
const NO_SUBMITS: &str = "LOCK TABLE retirements IN EXCLUSIVE MODE";

/// The state of a version that was retired at some time.
#[derive(Clone, Debug)]
pub enum Standing {
    Retired(Retirement),
    Restored,
    Removed,
}

/// The last change of a version.
#[derive(Clone, Debug)]
pub struct Change {
    pub change_id: i64,
    pub template_id: i32,
    pub standing: Standing,
}

/// When a version was retired, by which actor, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retirement {
    pub at: SystemTime,
    pub by: String,
    pub reason: String,
}

/// The result of an order to retire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retired {
    Done,
    InUse(Unfinished),
    /// Retention has removed the template.
    Gone,
}

/// Tasks that are not final.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfinished {
    pub tasks: i64,
    /// Whether there are more than were counted.
    pub at_least: bool,
    pub example: Uuid,
}

/// The first changes with a number above `known`: as many as fit a page. An empty page means that
/// none are left.
pub async fn page(db: &Db, known: i64) -> Result<Vec<Change>, StoreError> {
    let client = db.read().await?;
    let sql = "SELECT change_id, template_id, standing::text, at, actor, reason FROM retirements
                WHERE change_id > $1 ORDER BY change_id LIMIT $2";
    let statement = client.prepare_cached(sql).await?;
    let rows = client.query(&statement, &[&known, &PAGE_CHANGES]).await?;
    rows.iter().map(change).collect()
}

fn change(r: &Row) -> Result<Change, StoreError> {
    let standing = match r.get(2) {
        "retired" => Standing::Retired(Retirement {
            at: r.get(3),
            by: r.get(4),
            reason: r.get(5),
        }),
        "restored" => Standing::Restored,
        "removed" => Standing::Removed,
        other => {
            let why = format!("this version does not know the template state `{other}`");
            return Err(StoreError::Corrupt(why));
        }
    };
    Ok(Change {
        change_id: r.get(0),
        template_id: r.get(1),
        standing,
    })
}

/// Retires a version, unless it is retired already or has tasks that are not final. Every submit
/// acknowledged before this returns is counted, and every later one sees that the version is
/// retired. A lock timeout means that a submit took too long: nothing was changed.
pub async fn retire(
    db: &Db,
    template_id: i32,
    actor: &Actor,
    wake: &str,
) -> Result<Retired, StoreError> {
    let mut client = db.read().await?;
    let tx = client.transaction().await?;
    match retired(&tx, template_id).await? {
        None => return Ok(Retired::Gone),
        Some(true) => return Ok(Retired::Done),
        Some(false) => {}
    }
    // First without the lock, so that a refusal delays no submit.
    if let Some(tasks) = unfinished(&tx, template_id).await? {
        return Ok(Retired::InUse(tasks));
    }
    tx.batch_execute(LOCK_TIMEOUT).await?;
    tx.batch_execute(NO_SUBMITS).await?;
    // Again with the lock: every submit that began before has committed, and its tasks are visible.
    if let Some(tasks) = unfinished(&tx, template_id).await? {
        return Ok(Retired::InUse(tasks));
    }
    set(db, &tx, template_id, "retired", actor, wake).await?;
    tx.commit().await?;
    Ok(Retired::Done)
}

/// Lets a version take tasks again. `Some(false)` when it is not retired, and `None` when retention
/// has removed it.
pub async fn restore(
    db: &Db,
    template_id: i32,
    actor: &Actor,
    wake: &str,
) -> Result<Option<bool>, StoreError> {
    let mut client = db.read().await?;
    let tx = client.transaction().await?;
    let retired = retired(&tx, template_id).await?;
    if retired == Some(true) {
        set(db, &tx, template_id, "restored", actor, wake).await?;
    }
    tx.commit().await?;
    Ok(retired)
}

/// Whether a version is retired, valid while this transaction has the registration lock; `None`
/// where the template does not exist.
async fn retired(
    tx: &DeadlineTransaction<'_>,
    template_id: i32,
) -> Result<Option<bool>, StoreError> {
    tx.execute(TURN, &[]).await?;
    let sql = "SELECT EXISTS (SELECT FROM retirements r WHERE r.template_id = t.template_id AND standing = 'retired')
                 FROM templates t WHERE template_id = $1";
    Ok(tx
        .query_opt(sql, &[&template_id])
        .await?
        .map(|row| row.get(0)))
}

/// The tasks of a version that are not final; `None` when there are none. Each has a row in the
/// queue, whose length depends on the current work and not on the history.
async fn unfinished(
    tx: &DeadlineTransaction<'_>,
    template_id: i32,
) -> Result<Option<Unfinished>, StoreError> {
    let sql = "SELECT count(*), count(DISTINCT task_id), (array_agg(task_id ORDER BY task_id))[1]
                 FROM (SELECT task_id FROM queue WHERE template_id = $1 LIMIT $2) AS few";
    let row = tx.query_one(sql, &[&template_id, &MAX_COUNTED]).await?;
    let (rows, tasks): (i64, i64) = (row.get(0), row.get(1));
    Ok(row.get::<_, Option<Uuid>>(2).map(|example| Unfinished {
        tasks,
        at_least: rows == MAX_COUNTED,
        example,
    }))
}

async fn set(
    db: &Db,
    tx: &DeadlineTransaction<'_>,
    template_id: i32,
    standing: &str,
    actor: &Actor,
    wake: &str,
) -> Result<(), StoreError> {
    // `change_id` gets a new number, since servers read the changes above the last number they
    // know.
    let sql = "
        WITH changed AS (
            INSERT INTO retirements (template_id, standing, at, actor, reason)
            VALUES ($1, $2::text::template_standing, clock_timestamp(), $3, $4)
                ON CONFLICT (template_id) DO UPDATE
               SET change_id = DEFAULT, standing = excluded.standing, at = excluded.at, actor = excluded.actor, reason = excluded.reason
            RETURNING at)
        INSERT INTO events (at, type, template_id, actor, detail)
        SELECT at, ('template.' || $2)::event_type, $1, nullif($3, ''), $4 FROM changed";
    tx.execute(sql, &[&template_id, &standing, &actor.by, &actor.reason])
        .await?;
    // Delivered by the commit, so a server that reads upon it finds the change.
    tx.execute("SELECT pg_notify($1, $2)", &[&db.channel(), &wake])
        .await?;
    Ok(())
}

/// The templates that retention may remove, without the closing condition on their tasks: retired
/// before `$1`.
pub(super) const REMOVABLE: &str = "
    SELECT template_id FROM retirements r
     WHERE standing = 'retired' AND at < $1::text::timestamptz
       AND NOT EXISTS (SELECT FROM tasks t WHERE t.template_id = r.template_id AND t.steps_total > 0";

/// Removes up to [`MAX_REMOVED`] versions to which no task refers, notifies the servers, and
/// returns the number. Submits of a retired version are refused, so no new task can appear.
pub(super) async fn remove(db: &Db, client: &mut Client, cutoff: &str) -> Result<u64, StoreError> {
    let tx = client.transaction().await?;
    // With the lock no version is restored meanwhile.
    tx.execute(TURN, &[]).await?;
    let find = format!("{REMOVABLE}) ORDER BY template_id LIMIT $2");
    let ids = tx.query(&find, &[&cutoff, &MAX_REMOVED]).await?;
    let ids: Vec<i32> = ids.iter().map(|row| row.get(0)).collect();
    if ids.is_empty() {
        return Ok(0);
    }
    // The retirements last: a trigger refuses to remove a version that is not retired.
    for sql in [
        "DELETE FROM template_steps WHERE template_id = ANY($1)",
        "DELETE FROM templates WHERE template_id = ANY($1)",
        "UPDATE retirements SET change_id = DEFAULT, standing = 'removed', at = clock_timestamp() WHERE template_id = ANY($1)",
    ] {
        tx.execute(sql, &[&ids]).await?;
    }
    tx.execute("SELECT pg_notify($1, ':t')", &[&db.channel()])
        .await?;
    tx.commit().await?;
    Ok(ids.len() as u64)
}

/// Deletes the records of removed versions; they are at least a day old, so every server has read
/// them.
pub(super) async fn forget_removed(client: &Client, cutoff: &str) -> Result<(), StoreError> {
    let sql = "DELETE FROM retirements
                WHERE standing = 'removed' AND at < least($1::text::timestamptz, now() - interval '1 day')";
    client.execute(sql, &[&cutoff]).await?;
    Ok(())
}
