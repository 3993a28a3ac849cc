//! The statements that begin an engine transaction: its locks and its reads.
//!
//! As in `writes`, a row is found by its key in a `LATERAL (... LIMIT 1)`.

/// Locks in the order of the list.
pub(super) const LOCK_LEASES: &str = "
    SELECT q.*
      FROM unnest($1::uuid[], $2::int2[]) AS u(task_id, step)
     CROSS JOIN LATERAL (
           SELECT task_id, step, attempt, charged, lost, lease, worker_id, ready_at, started_at, deadline_at, share_id, state::text,
                  reopened, forgiven
             FROM queue
            WHERE task_id = u.task_id AND step = u.step LIMIT 1 FOR UPDATE) AS q";

pub(super) const LOCK_TASKS_LIVE: &str = "
    SELECT task_id, step, attempt, charged, lost, lease, worker_id, ready_at, started_at, deadline_at, share_id, state::text,
           reopened, forgiven
      FROM queue WHERE task_id = ANY($1::uuid[]) ORDER BY task_id, step FOR UPDATE";

/// Also returns the time after each row was locked. A separate statement for the time would cost as
/// much as this one.
pub(super) const LOCK_TASKS: &str = "
    SELECT t.*, clock_timestamp()
      FROM (SELECT task_id, template_id, state::text, priority, steps_live, steps_done, failed_step, paused_at IS NOT NULL,
                   settings, expires_at, error_code, coalesce(documents_bytes, 2147483647), revision
              FROM tasks WHERE task_id = ANY($1::uuid[]) ORDER BY task_id FOR UPDATE) AS t";

/// Also returns the time after the idempotency keys were taken. `FOR KEY SHARE` locks no row: it
/// locks the table, before this statement takes its snapshot and until the transaction ends,
/// against an order that retires a version (`retirement::NO_SUBMITS`).
pub(super) const NEWEST_TEMPLATE: &str = "
    SELECT coalesce(max(template_id), 0), clock_timestamp(),
           coalesce((SELECT max(change_id) FROM retirements), 0),
           EXISTS (SELECT FROM retirements WHERE false FOR KEY SHARE)
      FROM templates";

pub(super) const PEEK: &str = "
    SELECT q.*
      FROM unnest($1::int4[], $2::int4[], $3::int4[]) AS l(lane_id, n, bytes)
     CROSS JOIN LATERAL (
           SELECT task_id, step, template_id, lane_id, priority, coalesce(assignment_bytes, 0), coalesce(revision, 0)
             FROM queue
            WHERE queue.lane_id = l.lane_id AND due AND coalesce(expires_at > clock_timestamp(), true)
              AND coalesce(assignment_bytes <= l.bytes, true)
            ORDER BY priority DESC, task_id, step LIMIT l.n) q";

pub(super) const LOCK_READY: &str = "
    SELECT q.*
      FROM unnest($1::int4[], $2::int4[], $3::int4[]) AS l(lane_id, n, bytes)
     CROSS JOIN LATERAL (
           SELECT task_id, step, template_id, lane_id, priority, coalesce(assignment_bytes, 0), coalesce(revision, 0)
             FROM queue
            WHERE queue.lane_id = l.lane_id AND due AND coalesce(expires_at > clock_timestamp(), true)
              AND coalesce(assignment_bytes <= l.bytes, true)
            ORDER BY priority DESC, task_id, step LIMIT l.n FOR UPDATE SKIP LOCKED) q";

/// Marks due retries as claimable. Bounded; the next statement promotes the rest.
pub(super) const PROMOTE: &str = "
    UPDATE queue q SET due = true
      FROM (SELECT ctid AS tid FROM queue
             WHERE next_attempt_at IS NOT NULL AND NOT due AND NOT paused AND next_attempt_at <= clock_timestamp()
             ORDER BY next_attempt_at LIMIT $1 FOR UPDATE SKIP LOCKED) AS due
     WHERE q.ctid = due.tid
    RETURNING q.lane_id";

/// Bound on the retries that one statement promotes.
pub(super) const MAX_PROMOTED: i64 = 1_000;

pub(super) const NEXT_RETRY: &str = "
    SELECT extract(epoch FROM next_attempt_at - clock_timestamp())::float8
      FROM queue WHERE next_attempt_at IS NOT NULL AND NOT due AND NOT paused ORDER BY next_attempt_at LIMIT 1";

pub(super) const ANYTHING_DUE: &str = "
    SELECT EXISTS (SELECT FROM unnest($1::int4[], $2::int4[]) AS l(lane_id, bytes)
                    CROSS JOIN LATERAL (SELECT FROM queue WHERE queue.lane_id = l.lane_id AND due
                                              AND coalesce(expires_at > clock_timestamp(), true)
                                              AND coalesce(assignment_bytes <= l.bytes, true) LIMIT 1) q),
           (SELECT extract(epoch FROM next_attempt_at - clock_timestamp())::float8
              FROM queue WHERE next_attempt_at IS NOT NULL AND NOT due AND NOT paused ORDER BY next_attempt_at LIMIT 1)";

pub(super) const TAKE_KEYS: &str = "
    INSERT INTO idempotency_keys (namespace, key, task_id, digest)
    SELECT * FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bytea[])
        ON CONFLICT (namespace, key) DO NOTHING";

pub(super) const READ_KEYS: &str = "
    SELECT k.*
      FROM unnest($1::text[], $2::text[]) AS u(namespace, key)
     CROSS JOIN LATERAL (
           SELECT namespace, key, task_id, digest FROM idempotency_keys
            WHERE namespace = u.namespace AND key = u.key LIMIT 1) AS k";

pub(super) const PAST_OUTCOMES: &str = "
    SELECT e.*
      FROM unnest($1::uuid[], $2::int2[], $3::int8[]) AS u(task_id, step, lease)
     CROSS JOIN LATERAL (
           SELECT task_id, step, lease, outcome::text FROM events
            WHERE task_id = u.task_id AND outcome IS NOT NULL AND step = u.step AND lease = u.lease LIMIT 1) AS e";

pub(super) const PAST_ENDS: &str = "
    SELECT task_id, step, state::text, attempt, charged, ready_at, started_at,
           CASE WHEN state = 'resolved_manually' THEN result END, error_code, error_message, error_context
      FROM steps WHERE task_id = ANY($1::uuid[])";

/// Sizes of documents in bytes, without reading the documents: the task's own for a negative
/// position, else those of a step's result.
pub(super) const SIZES: &str = "
    SELECT u.task_id, u.step, b.bytes
      FROM unnest($1::uuid[], $2::int2[]) AS u(task_id, step)
     CROSS JOIN LATERAL (
          (SELECT octet_length(context) + octet_length(annotations) + coalesce(octet_length(settings), 0) AS bytes FROM tasks
            WHERE task_id = u.task_id AND u.step < 0 LIMIT 1)
           UNION ALL
          (SELECT coalesce(octet_length(result), 4) FROM steps
            WHERE task_id = u.task_id AND step = u.step AND state IN ('complete', 'skipped', 'resolved_manually')
            LIMIT 1)) AS b";
