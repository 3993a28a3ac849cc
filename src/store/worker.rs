//! Connections of workers, and the lease of each.

use std::time::{Duration, SystemTime};

use tokio_postgres::Row;
use uuid::Uuid;

use super::{Db, StoreError};
use crate::domain::{attempt::Outcome, lease::Lease, worker::Registration};

/// A new connection of a worker.
#[derive(Clone, Debug)]
pub struct NewWorker {
    pub worker_id: Uuid,
    pub server_id: Uuid,
    pub registration: Registration,
}

/// A lease that moved to the new connection.
#[derive(Clone, Debug)]
pub struct KeptLease {
    pub lease: Lease,
    pub lane_id: i32,
    /// Time until the attempt's deadline.
    pub remaining: Duration,
}

/// The connections, attempts and tasks to end.
#[derive(Clone, Debug, Default)]
pub struct Reaped {
    /// Connections whose lease has expired.
    pub lost: Vec<Uuid>,
    /// Attempts without a living worker.
    pub orphans: Vec<Orphan>,
    /// Attempts whose deadline passed a while ago without the server of their worker ending them.
    pub overdue: Vec<Lease>,
    /// Tasks whose deadline has passed.
    pub expired: Vec<Uuid>,
}

/// An attempt whose worker is gone.
#[derive(Clone, Copy, Debug)]
pub struct Orphan {
    pub lease: Lease,
    pub worker_id: Uuid,
    pub why: Gone,
}

/// Why an attempt has no living worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gone {
    /// The worker registered again without this lease: the assignment never arrived.
    Undelivered,
    /// The worker had announced that it drains, and is gone.
    Drained,
    /// The worker's lease expired without a heartbeat.
    Lost,
}

impl Gone {
    /// The outcome of the attempt.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Undelivered => Outcome::Undelivered,
            Self::Drained => Outcome::Drained,
            Self::Lost => Outcome::WorkerLost,
        }
    }
}

/// The answer to a registration.
#[derive(Clone, Debug, Default)]
pub struct Registered {
    pub kept: Vec<KeptLease>,
    /// Attempts of the previous connection whose leases the worker does not hold: their assignments
    /// never arrived.
    pub orphans: Vec<Orphan>,
}

/// A connected worker as operators see it.
#[derive(Clone, Debug)]
pub struct WorkerRow {
    pub worker_id: Uuid,
    pub server_id: Uuid,
    pub name: String,
    pub build_id: String,
    pub namespaces: Vec<String>,
    pub handlers: Vec<String>,
    pub max_concurrent_steps: i32,
    pub max_assignment_bytes: i32,
    pub steps_in_progress: i64,
    pub labels: String,
    pub connected_at: SystemTime,
    pub lease_expires_at: SystemTime,
    pub draining: bool,
}

/// Stores a connection, ends the previous one, and moves the leases that the worker still holds.
pub async fn register(db: &Db, new: &NewWorker, lease: Duration) -> Result<Registered, StoreError> {
    let worker = &new.registration;
    let mut held = worker.held.clone();
    // In the order in which every transaction locks rows of the queue, so that no two deadlock.
    held.sort_unstable_by_key(|l| (l.task_id, l.step));
    let tasks: Vec<Uuid> = held.iter().map(|l| l.task_id).collect();
    let steps: Vec<i16> = held.iter().map(|l| l.step).collect();
    let nonces: Vec<i64> = held.iter().map(|l| l.nonce).collect();
    let mut client = db.read().await?;
    let tx = client.transaction().await?;
    let end = tx
        .prepare_cached(
            "UPDATE workers SET ended_at = now(), superseded = true WHERE worker_id = $1 AND ended_at IS NULL",
        )
        .await?;
    // Superseded and not merely ended: the reaper then takes what stays with this connection for
    // undelivered instead of lost. Without a previous connection the parameter is NULL and matches
    // no row.
    tx.execute(&end, &[&worker.previous]).await?;
    let insert = tx
        .prepare_cached(
            "WITH w AS (
                 INSERT INTO workers (worker_id, server_id, name, build_id, namespaces, handlers, max_concurrent_steps,
                                      labels, connected_at, lease_expires_at, max_assignment_bytes)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now(), now() + make_interval(secs => $9), $10))
             INSERT INTO events (at, type, worker_id) VALUES (now(), 'worker.connected', $1)",
        )
        .await?;
    tx.execute(
        &insert,
        &[
            &new.worker_id,
            &new.server_id,
            &worker.name,
            &worker.build_id,
            &worker.namespaces,
            &worker.handlers,
            &worker.max_concurrent_steps,
            &worker.labels,
            &lease.as_secs_f64(),
            &worker.max_assignment_bytes,
        ],
    )
    .await?;
    // The lease token is the proof, whichever connection had it; an outdated token matches no row.
    let adopt = tx
        .prepare_cached(
            "UPDATE queue q SET worker_id = $1
               FROM (SELECT u.task_id, u.step FROM unnest($2::uuid[], $3::int2[], $4::int8[]) AS u(task_id, step, lease)
                       JOIN queue b ON b.task_id = u.task_id AND b.step = u.step AND b.lease = u.lease
                      ORDER BY u.task_id, u.step FOR UPDATE OF b) k
              WHERE q.task_id = k.task_id AND q.step = k.step
             RETURNING q.task_id, q.step, q.lease, q.lane_id, extract(epoch FROM q.deadline_at - now())::float8",
        )
        .await?;
    let kept = tx
        .query(&adopt, &[&new.worker_id, &tasks, &steps, &nonces])
        .await?;
    // After the adoption: the leases that the previous connection still has did not arrive.
    let orphans = "SELECT task_id, step, lease, worker_id FROM queue WHERE worker_id = $1 AND lease IS NOT NULL";
    let orphans = tx.prepare_cached(orphans).await?;
    let orphans = tx.query(&orphans, &[&worker.previous]).await?;
    tx.commit().await?;
    Ok(Registered {
        kept: kept.iter().map(kept_lease).collect(),
        orphans: orphans.iter().map(orphan).collect(),
    })
}

/// Extends the leases of the workers that sent a heartbeat, and returns the ended connections among
/// `connected`: those workers registered again elsewhere, or sent no heartbeat until their lease
/// expired.
pub async fn extend(
    db: &Db,
    alive: &[Uuid],
    connected: &[Uuid],
    lease: Duration,
) -> Result<Vec<Uuid>, StoreError> {
    let client = db.read().await?;
    // One statement for all workers of the server, so that heartbeats cost one round trip at any
    // number.
    let statement = client
        .prepare_cached(
            "WITH alive AS (
                 UPDATE workers SET lease_expires_at = clock_timestamp() + make_interval(secs => $3)
                  WHERE worker_id = ANY($1::uuid[]) AND ended_at IS NULL)
             SELECT c.worker_id FROM unnest($2::uuid[]) AS c(worker_id)
               LEFT JOIN workers w ON w.worker_id = c.worker_id
              WHERE w.worker_id IS NULL OR w.ended_at IS NOT NULL",
        )
        .await?;
    let rows = client
        .query(&statement, &[&alive, &connected, &lease.as_secs_f64()])
        .await?;
    Ok(rows.iter().map(|r| r.get(0)).collect())
}

/// Ends connections that closed in good order or whose server knows that they are over.
pub async fn end(db: &Db, workers: &[Uuid]) -> Result<(), StoreError> {
    let client = db.read().await?;
    let sql = "UPDATE workers SET ended_at = now() WHERE worker_id = ANY($1::uuid[]) AND ended_at IS NULL";
    let statement = client.prepare_cached(sql).await?;
    client.execute(&statement, &[&workers]).await?;
    Ok(())
}

/// Marks a worker that accepts no more steps.
pub async fn drain(db: &Db, worker: Uuid) -> Result<(), StoreError> {
    let client = db.read().await?;
    let statement = client
        .prepare_cached("UPDATE workers SET draining = true WHERE worker_id = $1")
        .await?;
    client.execute(&statement, &[&worker]).await?;
    Ok(())
}

/// Ends the connections whose lease has expired, and returns up to `limit` attempts to end. A
/// server ends its own connections, so that it stops assigning steps to them at the same moment;
/// those of another server get `patience` more, which matters only when that server is gone too.
/// The same holds for deadlines: a worker's server watches them, and this statement covers the
/// attempts that it does not know of.
///
/// `now` is the caller's estimate of the database's time. A statement that runs much later was
/// delayed by a database that answered no client, and ends no connection: meanwhile no heartbeat
/// could arrive.
pub async fn reap(
    db: &Db,
    server_id: Uuid,
    patience: Duration,
    limit: i64,
    now: SystemTime,
) -> Result<Reaped, StoreError> {
    let client = db.read().await?;
    // SKIP LOCKED: a worker whose lease is being extended at the moment is not silent, and two
    // servers cannot wait for each other. The statement does not see its own changes of `workers`,
    // so `lost` names the connections that end in it.
    let statement = client
        .prepare_cached(
            "WITH lapsed AS MATERIALIZED (
                 SELECT worker_id FROM workers
                  WHERE ended_at IS NULL
                    AND clock_timestamp() < $4::timestamptz + interval '2 seconds'
                    AND lease_expires_at < clock_timestamp()
                                           - CASE WHEN server_id = $2 THEN interval '0' ELSE make_interval(secs => $3) END
                    FOR UPDATE SKIP LOCKED),
             lost AS (
                 UPDATE workers w SET ended_at = clock_timestamp() FROM lapsed WHERE w.worker_id = lapsed.worker_id
                 RETURNING w.worker_id),
             log AS (
                 INSERT INTO events (at, type, worker_id) SELECT clock_timestamp(), 'worker.lost', worker_id FROM lost)
             SELECT worker_id, NULL AS task_id, NULL AS step, NULL AS lease, NULL AS orphaned, NULL AS superseded, NULL AS drained
               FROM lost
             UNION ALL
            (SELECT q.worker_id, q.task_id, q.step, q.lease,
                    w.worker_id IS NULL OR w.ended_at IS NOT NULL OR w.worker_id IN (SELECT worker_id FROM lost),
                    coalesce(w.superseded, false), coalesce(w.draining, false)
               FROM queue q LEFT JOIN workers w ON w.worker_id = q.worker_id
              WHERE q.worker_id IS NOT NULL AND q.lease IS NOT NULL
                AND (w.worker_id IS NULL OR w.ended_at IS NOT NULL OR w.worker_id IN (SELECT worker_id FROM lost)
                     OR q.deadline_at < clock_timestamp() - make_interval(secs => $3))
              ORDER BY q.task_id, q.step LIMIT $1)
             UNION ALL
            (SELECT NULL, task_id, NULL, NULL, NULL, NULL, NULL
               FROM task_deadlines WHERE expires_at <= clock_timestamp() ORDER BY expires_at LIMIT $1)",
        )
        .await?;
    let mut reaped = Reaped::default();
    for row in client
        .query(
            &statement,
            &[&limit, &server_id, &patience.as_secs_f64(), &now],
        )
        .await?
    {
        // A lost connection has no task, a task past its deadline no worker, and an attempt has
        // both.
        let (worker_id, task_id) = match (row.get(0), row.get(1)) {
            (Some(worker_id), Some(task_id)) => (worker_id, task_id),
            (worker_id, task_id) => {
                reaped.lost.extend(worker_id);
                reaped.expired.extend(task_id);
                continue;
            }
        };
        let lease = Lease {
            task_id,
            step: row.get(2),
            nonce: row.get(3),
        };
        if row.get(4) {
            // Superseded first: whether the old connection drained is irrelevant to an assignment
            // that never arrived.
            let why = match (row.get(5), row.get(6)) {
                (true, _) => Gone::Undelivered,
                (false, true) => Gone::Drained,
                (false, false) => Gone::Lost,
            };
            reaped.orphans.push(Orphan {
                lease,
                worker_id,
                why,
            });
        } else {
            reaped.overdue.push(lease);
        }
    }
    Ok(reaped)
}

/// Attempts that this server's workers run although their leases are not (or no longer) in the
/// queue, each with whether its task was cancelled.
pub async fn dead_leases(db: &Db, leases: &[Lease]) -> Result<Vec<(Lease, bool)>, StoreError> {
    let tasks: Vec<Uuid> = leases.iter().map(|l| l.task_id).collect();
    let steps: Vec<i16> = leases.iter().map(|l| l.step).collect();
    let nonces: Vec<i64> = leases.iter().map(|l| l.nonce).collect();
    let client = db.read().await?;
    // Whether the task was cancelled only decides the reason that the worker is given.
    let statement = client
        .prepare_cached(
            "SELECT u.task_id, u.step, u.lease,
                    coalesce((SELECT state = 'cancelled' FROM tasks t WHERE t.task_id = u.task_id), false)
               FROM unnest($1::uuid[], $2::int2[], $3::int8[]) AS u(task_id, step, lease)
              WHERE NOT EXISTS (SELECT FROM queue q
                                 WHERE q.task_id = u.task_id AND q.step = u.step AND q.lease = u.lease)",
        )
        .await?;
    let rows = client.query(&statement, &[&tasks, &steps, &nonces]).await?;
    let dead = |r: &Row| {
        (
            Lease {
                task_id: r.get(0),
                step: r.get(1),
                nonce: r.get(2),
            },
            r.get(3),
        )
    };
    Ok(rows.iter().map(dead).collect())
}

/// At most `limit` connected workers after `after`, ordered by name and connection time.
pub async fn list(
    db: &Db,
    handler: Option<&str>,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<WorkerRow>, StoreError> {
    let client = db.read().await?;
    let statement = client
        .prepare_cached(
            "SELECT w.worker_id, w.server_id, w.name, w.build_id, w.namespaces, w.handlers, w.max_concurrent_steps,
                    (SELECT count(*) FROM queue q WHERE q.worker_id = w.worker_id), w.labels, w.connected_at,
                    w.lease_expires_at, w.draining, w.max_assignment_bytes
               FROM workers w
              WHERE w.ended_at IS NULL AND ($1::text IS NULL OR $1 = ANY(w.handlers))
                AND ($2::uuid IS NULL OR (w.name, w.connected_at, w.worker_id)
                                         > (SELECT name, connected_at, worker_id FROM workers WHERE worker_id = $2))
              ORDER BY w.name, w.connected_at, w.worker_id LIMIT $3",
        )
        .await?;
    // The statement finds the position of `after` by its row, which an ended connection keeps for a
    // day at least, so a page token stays valid meanwhile.
    let worker = |r: &Row| WorkerRow {
        worker_id: r.get(0),
        server_id: r.get(1),
        name: r.get(2),
        build_id: r.get(3),
        namespaces: r.get(4),
        handlers: r.get(5),
        max_concurrent_steps: r.get(6),
        steps_in_progress: r.get(7),
        labels: r.get(8),
        connected_at: r.get(9),
        lease_expires_at: r.get(10),
        draining: r.get(11),
        max_assignment_bytes: r.get(12),
    };
    Ok(client
        .query(&statement, &[&handler, &after, &limit])
        .await?
        .iter()
        .map(worker)
        .collect())
}

fn kept_lease(r: &Row) -> KeptLease {
    KeptLease {
        lease: Lease {
            task_id: r.get(0),
            step: r.get(1),
            nonce: r.get(2),
        },
        lane_id: r.get(3),
        remaining: Duration::try_from_secs_f64(r.get::<_, f64>(4).max(0.0)).unwrap_or_default(),
    }
}

fn orphan(r: &Row) -> Orphan {
    let lease = Lease {
        task_id: r.get(0),
        step: r.get(1),
        nonce: r.get(2),
    };
    Orphan {
        lease,
        worker_id: r.get(3),
        why: Gone::Undelivered,
    }
}
