//! Removes old rows: finished tasks with their steps, keys and events, connections of workers,
//! changes of circuits, unused services, and retired versions of templates. A partition of the
//! event log is dropped as a whole once none of its tasks is left; all other rows are deleted in
//! short transactions.

use std::{collections::BTreeSet, time::Duration};

use tokio_postgres::{Client, Row, types::ToSql};
use uuid::Uuid;

use super::{Db, StoreError, retirement, unused};

/// Tasks per transaction; with their steps some thousands of rows.
const TASKS: i64 = 500;
/// Rows of the narrower tables that one transaction examines.
const ROWS: i64 = 2_000;
/// The longest that dropping or adding a partition waits for its lock; inserts of events queue
/// behind that wait.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '200ms'";
/// This connection serves no caller that waits, so its statements may take long.
const SETTINGS: &str = "SET statement_timeout = '15min'";
/// A survey reads whole tables, for which hash joins and sequential scans are the best plan.
const SURVEY_SETTINGS: &str =
    "SET enable_hashjoin = on; SET enable_seqscan = on; SET plan_cache_mode = auto";

/// The rows that were removed, or that a survey counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    pub tasks: u64,
    pub steps: u64,
    pub keys: u64,
    pub workers: u64,
    pub circuit_changes: u64,
    pub events: u64,
    /// Services that no template uses any more, at rest and without settings.
    pub services: u64,
    /// Partitions of the event log that were dropped as a whole.
    pub partitions: Vec<String>,
    /// Retired versions to which no task refers any more.
    pub templates: u64,
}

/// A partition of the event log older than the retention period.
struct Partition {
    name: String,
    first_id: Uuid,
    end_id: Uuid,
    /// Whether its period is over and none of its tasks is left.
    empty: bool,
}

/// Creates partitions of the event log for the coming days; returns their number.
pub async fn prepare(db: &Db, width_days: i32, ahead_days: i32) -> Result<i32, StoreError> {
    let mut client = db.connect_dedicated().await?;
    let tx = client.transaction().await?;
    tx.batch_execute(LOCK_TIMEOUT).await?;
    // The row lock admits one server at a time.
    let sql = "SELECT prepare_event_partitions($1, $2) FROM (SELECT FROM event_horizon FOR UPDATE) AS turn";
    let made = tx.query_one(sql, &[&width_days, &ahead_days]).await?.get(0);
    tx.commit().await?;
    Ok(made)
}

/// Whether this server may prune now: no server has pruned within `every`.
pub async fn claim(db: &Db, every: Duration) -> Result<bool, StoreError> {
    let client = db.read().await?;
    // The update decides between servers: the one that comes second waits for the row, and then
    // finds a new `pruned_at`, which no longer matches.
    let sql = "UPDATE event_horizon SET pruned_at = now() WHERE pruned_at < now() - make_interval(secs => $1)";
    Ok(client.execute(sql, &[&every.as_secs_f64()]).await? > 0)
}

/// Removes rows that ended longer than `older_than` ago. It rests after each transaction for as
/// long as that one took. A failure keeps the transactions that have committed, and the next call
/// continues.
pub async fn prune(db: &Db, older_than: Duration) -> Result<Pruned, StoreError> {
    let mut client = db.connect_dedicated().await?;
    client.batch_execute(SETTINGS).await?;
    let cutoff = cutoff(&client, older_than).await?;
    let mut pruned = Pruned {
        workers: prune_loose(&client, WORKERS, &cutoff).await?,
        circuit_changes: prune_loose(&client, CIRCUIT_CHANGES, &cutoff).await?,
        ..Pruned::default()
    };
    // Before their tasks, so that no key names a removed task.
    pruned.keys = prune_keys(&client, &cutoff).await?;
    let days = prune_tasks(&client, &cutoff, &mut pruned).await?;
    for partition in partitions(&client, &cutoff).await? {
        if partition.empty {
            if let Some(events) = drop_partition(&mut client, &partition).await? {
                pruned.events += events;
                pruned.partitions.push(partition.name);
            }
        } else if days
            .range(day(partition.first_id)..day(partition.end_id))
            .next()
            .is_some()
        {
            // Only the days of removed tasks can have events of such tasks; the other partitions
            // are not walked.
            pruned.events += prune_events(&client, &partition.name, &cutoff).await?;
        }
    }
    // This partition has the events without a task, and those of days without a partition.
    pruned.events += prune_events(&client, "events_default", &cutoff).await?;
    // Marks divide a long backlog of events for readers; the events from before the cutoff are
    // gone.
    client
        .execute(
            "DELETE FROM event_marks WHERE at < $1::text::timestamptz",
            &[&cutoff],
        )
        .await?;
    // After the events and the changes of circuits: those refer to a service by number, and its
    // name is in its row.
    pruned.services = unused::forget(db, &mut client, &cutoff).await?;
    // Last: the lanes and services that only these versions used are removed in the next round.
    pruned.templates = prune_templates(db, &mut client, &cutoff).await?;
    Ok(pruned)
}

/// Counts the rows that [`prune`] would remove.
pub async fn survey(db: &Db, older_than: Duration) -> Result<Pruned, StoreError> {
    let client = db.connect_dedicated().await?;
    client.batch_execute(SETTINGS).await?;
    client.batch_execute(SURVEY_SETTINGS).await?;
    let cutoff = cutoff(&client, older_than).await?;
    // The same conditions as in `prune_tasks`, so that the dry run counts the tasks that go.
    let row = client
        .query_one(
            "WITH c AS (SELECT $1::text::timestamptz AS cutoff),
             old AS MATERIALIZED (SELECT task_id FROM tasks, c WHERE ended_at < cutoff AND task_id < first_task_id(cutoff))
             SELECT (SELECT count(*) FROM old),
                    (SELECT count(*) FROM steps JOIN old USING (task_id)),
                    (SELECT count(*) FROM idempotency_keys JOIN old USING (task_id)),
                    (SELECT count(*) FROM workers, c WHERE ended_at < least(cutoff, now() - interval '1 day')),
                    (SELECT count(*) FROM circuit_changes, c WHERE at < least(cutoff, now() - interval '1 day')),
                    (SELECT count(*) FROM events e, c
                      WHERE e.at < cutoff
                        AND (e.task_id IS NULL OR e.task_id IN (SELECT task_id FROM old)
                             OR NOT EXISTS (SELECT FROM tasks t WHERE t.task_id = e.task_id)))",
            &[&cutoff],
        )
        .await?;
    let number = |i| row.get::<_, i64>(i).cast_unsigned();
    let whole = client
        .query(
            "SELECT p.name FROM event_partitions p
              WHERE p.ends <= $1::text::timestamptz
                AND NOT EXISTS (SELECT FROM tasks t
                                 WHERE t.task_id >= first_task_id(p.begins) AND t.task_id < first_task_id(p.ends)
                                   AND (t.ended_at IS NULL OR t.ended_at >= $1::text::timestamptz))
              ORDER BY p.begins",
            &[&cutoff],
        )
        .await?;
    // Includes the versions whose last tasks would be removed too.
    let templates = format!(
        "SELECT count(*) FROM ({} AND (t.ended_at < $1::text::timestamptz AND t.task_id < first_task_id($1::text::timestamptz)) IS NOT TRUE)) AS gone",
        retirement::REMOVABLE
    );
    let templates: i64 = client.query_one(&templates, &[&cutoff]).await?.get(0);
    Ok(Pruned {
        tasks: number(0),
        steps: number(1),
        keys: number(2),
        workers: number(3),
        circuit_changes: number(4),
        events: number(5),
        services: client
            .query_one(&unused::count_services(), &[&cutoff])
            .await?
            .get::<_, i64>(0)
            .cast_unsigned(),
        partitions: whole.iter().map(|row| row.get(0)).collect(),
        templates: templates.cast_unsigned(),
    })
}

/// Removes ended connections of workers where all other rows are kept for ever. Returns their
/// number.
pub async fn forget_workers(db: &Db) -> Result<u64, StoreError> {
    let client = db.connect_dedicated().await?;
    prune_loose(&client, WORKERS, "infinity").await
}

/// The time before which rows count as old, as text: one for the whole round.
async fn cutoff(client: &Client, older_than: Duration) -> Result<String, StoreError> {
    let sql = "SELECT (clock_timestamp() - make_interval(secs => $1))::text";
    Ok(client
        .query_one(sql, &[&older_than.as_secs_f64()])
        .await?
        .get(0))
}

/// A series of short transactions, each followed by a rest as long as it took.
struct Batches<'a> {
    client: &'a Client,
    took: Duration,
}

impl<'a> Batches<'a> {
    fn new(client: &'a Client) -> Self {
        Self {
            client,
            took: Duration::ZERO,
        }
    }

    async fn next(&mut self, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Row, StoreError> {
        // Before the next transaction instead of after this one: the last one delays no caller.
        tokio::time::sleep(self.took).await;
        let began = tokio::time::Instant::now();
        let row = self.client.query_one(sql, params).await?;
        self.took = began.elapsed();
        Ok(row)
    }
}

/// A table whose rows have an end time and to which no other row is attached.
struct Loose {
    table: &'static str,
    key: &'static str,
    time: &'static str,
}

const WORKERS: Loose = Loose {
    table: "workers",
    key: "worker_id",
    time: "ended_at",
};
const CIRCUIT_CHANGES: Loose = Loose {
    table: "circuit_changes",
    key: "change_id",
    time: "at",
};

/// Keeps these rows for a day at least: attempts refer to their workers, and circuits count their
/// openings within a day.
async fn prune_loose(
    client: &Client,
    Loose { table, key, time }: Loose,
    cutoff: &str,
) -> Result<u64, StoreError> {
    let (mut batches, mut gone) = (Batches::new(client), 0);
    let sql = format!(
        "WITH old AS (SELECT {key} FROM {table} WHERE {time} < least($1::text::timestamptz, now() - interval '1 day') LIMIT $2),
         gone AS (DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM old) RETURNING 1)
         SELECT count(*) FROM gone"
    );
    loop {
        let count: i64 = batches.next(&sql, &[&cutoff, &ROWS]).await?.get(0);
        gone += count.cast_unsigned();
        // A batch that is not full was the last one.
        if count < ROWS {
            return Ok(gone);
        }
    }
}

/// Runs after the tasks that refer to them are removed.
async fn prune_templates(db: &Db, client: &mut Client, cutoff: &str) -> Result<u64, StoreError> {
    let mut gone = 0;
    loop {
        let began = tokio::time::Instant::now();
        let removed = retirement::remove(db, client, cutoff).await?;
        if removed == 0 {
            break;
        }
        gone += removed;
        tokio::time::sleep(began.elapsed()).await;
    }
    retirement::forget_removed(client, cutoff).await?;
    Ok(gone)
}

async fn prune_keys(client: &Client, cutoff: &str) -> Result<u64, StoreError> {
    let (mut batches, mut gone) = (Batches::new(client), 0);
    // Keys are in no order of age, so the walk covers the whole table, page by page along its key.
    let (mut namespace, mut key) = (String::new(), String::new());
    loop {
        let sql = "
            WITH page AS MATERIALIZED (
                SELECT namespace, key, task_id FROM idempotency_keys WHERE (namespace, key) > ($2, $3)
                 ORDER BY namespace, key LIMIT $4),
            gone AS (
                DELETE FROM idempotency_keys k USING page p
                 WHERE k.namespace = p.namespace AND k.key = p.key AND k.task_id < first_task_id($1::text::timestamptz)
                   AND NOT EXISTS (SELECT FROM tasks t
                                    WHERE t.task_id = k.task_id
                                      AND (t.ended_at IS NULL OR t.ended_at >= $1::text::timestamptz))
                RETURNING 1)
            SELECT l.namespace, l.key, (SELECT count(*) FROM gone)
              FROM (SELECT) AS one
              LEFT JOIN LATERAL (
                   SELECT namespace, key FROM page ORDER BY namespace DESC, key DESC LIMIT 1) AS l ON true";
        let row = batches
            .next(sql, &[&cutoff, &namespace, &key, &ROWS])
            .await?;
        gone += row.get::<_, i64>(2).cast_unsigned();
        match (row.get(0), row.get(1)) {
            // The page's last key, whether it was removed or not, is where the next page begins.
            (Some(last_namespace), Some(last_key)) => (namespace, key) = (last_namespace, last_key),
            _ => return Ok(gone),
        }
    }
}

/// Returns the days on which the removed tasks were submitted.
async fn prune_tasks(
    client: &Client,
    cutoff: &str,
    pruned: &mut Pruned,
) -> Result<BTreeSet<u64>, StoreError> {
    let (mut batches, mut days, mut last) = (Batches::new(client), BTreeSet::new(), Uuid::nil());
    loop {
        // The walk follows the ids, which are in the order of submission, and ends at the cutoff: a
        // task submitted after the cutoff cannot have ended before it. The delete checks
        // `t.ended_at` again, as the page is read without locks, and an order may have reopened the
        // task since.
        let sql = "
            WITH page AS MATERIALIZED (
                SELECT task_id, ended_at FROM tasks
                 WHERE task_id > $2 AND task_id < first_task_id($1::text::timestamptz) ORDER BY task_id LIMIT $3),
            gone AS (
                DELETE FROM tasks t USING page p
                 WHERE p.ended_at < $1::text::timestamptz AND t.task_id = p.task_id
                   AND t.ended_at < $1::text::timestamptz
                RETURNING t.task_id),
            steps_gone AS (DELETE FROM steps s USING gone WHERE s.task_id = gone.task_id RETURNING 1),
            late_gone AS (DELETE FROM late_results l USING gone WHERE l.task_id = gone.task_id)
            SELECT (SELECT task_id FROM page ORDER BY task_id DESC LIMIT 1),
                   (SELECT coalesce(array_agg(task_id), '{}') FROM gone), (SELECT count(*) FROM steps_gone)";
        let row = batches.next(sql, &[&cutoff, &last, &TASKS]).await?;
        let gone: Vec<Uuid> = row.get(1);
        pruned.tasks += gone.len() as u64;
        pruned.steps += row.get::<_, i64>(2).cast_unsigned();
        days.extend(gone.into_iter().map(day));
        match row.get(0) {
            // Also a page without an old task moves the walk on; only an empty page ends it.
            Some(id) => last = id,
            None => return Ok(days),
        }
    }
}

/// The day of a task's submission, since 1970: the first 48 bits of its id are milliseconds.
fn day(task_id: Uuid) -> u64 {
    (task_id.as_u64_pair().0 >> 16) / 86_400_000
}

/// The partitions that begin before the cutoff.
async fn partitions(client: &Client, cutoff: &str) -> Result<Vec<Partition>, StoreError> {
    // A partition whose period is not over may still be written to.
    let sql = "SELECT p.name, first_task_id(p.begins), first_task_id(p.ends),
                      p.ends <= $1::text::timestamptz
                      AND NOT EXISTS (SELECT FROM tasks t
                                       WHERE t.task_id >= first_task_id(p.begins) AND t.task_id < first_task_id(p.ends))
                 FROM event_partitions p WHERE p.begins < $1::text::timestamptz ORDER BY p.begins";
    let partition = |row: &Row| Partition {
        name: row.get(0),
        first_id: row.get(1),
        end_id: row.get(2),
        empty: row.get(3),
    };
    Ok(client
        .query(sql, &[&cutoff])
        .await?
        .iter()
        .map(partition)
        .collect())
}

/// Drops a partition without tasks and returns the number of its events; `None` when its lock was
/// not free in time or a task is left, so that a later round tries again.
async fn drop_partition(
    client: &mut Client,
    partition: &Partition,
) -> Result<Option<u64>, StoreError> {
    let name = &partition.name;
    // Only a task of this period that is committed after this read adds events that these values
    // lack, and then the check below undoes the drop.
    let sql = format!(
        "SELECT count(*), max(seq), (SELECT xid::text FROM {name} ORDER BY xid DESC LIMIT 1) FROM {name}"
    );
    let row = client.query_one(&sql, &[]).await?;
    let (count, seq, xid): (i64, Option<i64>, Option<&str>) = (row.get(0), row.get(1), row.get(2));
    let tx = client.transaction().await?;
    tx.batch_execute(LOCK_TIMEOUT).await?;
    if let Err(error) = tx.batch_execute(&format!("DROP TABLE {name}")).await {
        let error = StoreError::from(error);
        return if error.collision().is_some() {
            Ok(None)
        } else {
            Err(error)
        };
    }
    // After the drop, which holds the lock: a task of this period that was committed meanwhile is
    // visible now, and the return without a commit undoes the drop.
    let sql = "SELECT EXISTS (SELECT FROM tasks WHERE task_id >= $1 AND task_id < $2)";
    if tx
        .query_one(sql, &[&partition.first_id, &partition.end_id])
        .await?
        .get(0)
    {
        return Ok(None);
    }
    // In the transaction of the drop, so that a reader of the log finds the events or the new
    // horizon. The horizon is exclusive, hence `+ 1`; without events it stays, and no cursor
    // becomes invalid.
    tx.execute(
        "UPDATE event_horizon
            SET generation = generation + 1, xid = greatest(xid, ($1::text::numeric + 1)::text::xid8), seq = greatest(seq, $2::int8 + 1)
          WHERE $3::int8 > 0",
        &[&xid, &seq, &count],
    )
    .await?;
    tx.commit().await?;
    Ok(Some(count.cast_unsigned()))
}

/// Removes old events without a task, or of a removed task, from a partition that stays.
async fn prune_events(client: &Client, partition: &str, cutoff: &str) -> Result<u64, StoreError> {
    // A trigger refuses updates of events, so the `ctid` of the page still names the same row in
    // the delete. The horizon moves in the same statement, so that no reader misses the gap.
    let sql = format!(
        "WITH page AS MATERIALIZED (
             SELECT ctid AS tid, xid, seq, at, task_id FROM {partition} WHERE (xid, seq) > ($2::text::xid8, $3)
              ORDER BY xid, seq LIMIT $4),
         gone AS (
             DELETE FROM {partition} e USING page p
              WHERE e.ctid = p.tid AND p.at < $1::text::timestamptz
                AND (p.task_id IS NULL OR NOT EXISTS (SELECT FROM tasks t WHERE t.task_id = p.task_id))
             RETURNING e.xid, e.seq),
         horizon AS (
             UPDATE event_horizon h
                SET generation = h.generation + 1, seq = greatest(h.seq, g.seq + 1),
                    xid = greatest(h.xid, (g.xid::text::numeric + 1)::text::xid8)
               FROM (SELECT (SELECT xid FROM gone ORDER BY xid DESC LIMIT 1), max(seq) AS seq FROM gone HAVING count(*) > 0) AS g)
         SELECT l.xid::text, l.seq, (SELECT count(*) FROM gone),
                EXISTS (SELECT FROM page WHERE at < $1::text::timestamptz)
           FROM (SELECT) AS one
           LEFT JOIN LATERAL (SELECT xid, seq FROM page ORDER BY xid DESC, seq DESC LIMIT 1) AS l ON true"
    );
    let (mut batches, mut gone, mut xid, mut seq) =
        (Batches::new(client), 0, "0".to_owned(), 0_i64);
    loop {
        let row = batches.next(&sql, &[&cutoff, &xid, &seq, &ROWS]).await?;
        gone += row.get::<_, i64>(2).cast_unsigned();
        match (row.get(0), row.get(1), row.get(3)) {
            (Some(last_xid), Some(last_seq), true) => (xid, seq) = (last_xid, last_seq),
            // The walk has reached the end of the partition, or events that are not old.
            _ => return Ok(gone),
        }
    }
}
