//! The statements that write a [`Changes`](super::changes::Changes). Each list of it is one
//! statement, whatever its length.
//!
//! Rows are found by `LATERAL (... LIMIT 1)` and changed by their `ctid`, never joined by their
//! key. A join would let Postgres walk the table and look up the list instead, a plan that it takes
//! when it last saw the table empty, and keeps when the table is a million rows long. A condition
//! inside the subquery can only be looked up in the key's index, and the rows of the list are
//! estimated as few (a tenth, as the limit is not known), so that a row by its `ctid` is always
//! cheaper than a walk. `tests/plans.rs` checks the plan of every statement.

use super::error::stale_admission;

/// Fails if the admission version of a service ($services, $versions) is not the known one, or if a
/// throttle has not ended by the database's clock.
macro_rules! check_admission {
    ($services:literal, $versions:literal, $now:literal) => {
        concat!(
            "SELECT expect_rows('",
            stale_admission!("version of a service"),
            "', count(*), cardinality(",
            $services,
            "::int4[]))
               FROM unnest(",
            $services,
            "::int4[], ",
            $versions,
            "::int8[]) AS a(service_id, version)
              CROSS JOIN LATERAL (
                    SELECT FROM services
                     WHERE service_id = a.service_id AND version = a.version
                       AND coalesce(throttled_until <= ",
            $now,
            ", true) LIMIT 1) AS s"
        )
    };
}

pub(super) const INSERT_TASKS: &str = "
    INSERT INTO tasks (task_id, template_id, state, priority, steps_total, steps_live, steps_done, submitted_at,
                       started_at, ended_at, correlation_id, traceparent, annotations, context, settings, not_before,
                       expires_at, failed_step, documents_bytes)
    SELECT u.id, u.template_id, u.state::task_state, u.priority, u.total, u.live, u.done, $17::timestamptz,
           CASE WHEN u.state <> 'pending' THEN $17::timestamptz END, CASE WHEN u.live = 0 THEN $17::timestamptz END,
           u.correlation_id, u.traceparent, u.annotations, u.context, u.settings, u.not_before, u.expires_at,
           u.failed_step, u.bytes
      FROM unnest($1::uuid[], $2::int4[], $3::text[], $4::int2[], $5::int2[], $6::int2[], $7::bytea[], $8::text[],
                  $9::text[], $10::text[], $11::text[], $12::text[], $13::timestamptz[], $14::timestamptz[],
                  $15::int2[], $16::int4[])
           AS u(id, template_id, state, priority, total, live, done, correlation_id, traceparent, annotations, context,
                settings, not_before, expires_at, failed_step, bytes)";

pub(super) const DROP_KEYS: &str = "
    DELETE FROM idempotency_keys k
     USING (SELECT k.tid
              FROM unnest($1::text[], $2::text[], $3::uuid[]) AS u(namespace, key, task_id)
             CROSS JOIN LATERAL (
                   SELECT ctid AS tid FROM idempotency_keys
                    WHERE namespace = u.namespace AND key = u.key AND task_id = u.task_id LIMIT 1) AS k
             LIMIT cardinality($1)) AS u
     WHERE k.ctid = u.tid";

/// The lease in the predicate is the fence: an outdated attempt matches no row, and then nothing is
/// written. A step without a lease ends only with its whole task, and $15 lists those tasks.
pub(super) const END_STEPS: &str = "
    WITH gone AS (
        DELETE FROM queue
         WHERE task_id = ANY($1::uuid[]) AND (lease = ANY($3::int8[]) OR lease IS NULL AND task_id = ANY($15::uuid[]))
        RETURNING 1)
    INSERT INTO steps (task_id, step, state, attempt, charged, result, error_code, error_message, error_context, ready_at,
                       started_at, ended_at)
    SELECT u.task_id, u.step, u.state::step_state, u.attempt, u.charged, u.result, u.code, u.message, u.context, u.ready_at,
           u.started_at, coalesce($13::timestamptz, now())
      FROM unnest($1::uuid[], $2::int2[], $4::text[], $5::int4[], $6::int2[], $7::text[], $8::text[], $9::text[], $10::text[],
                  $11::timestamptz[], $12::timestamptz[])
           AS u(task_id, step, state, attempt, charged, result, code, message, context, ready_at, started_at)
     WHERE (SELECT expect_rows('ended steps in queue', count(*), $14) FROM gone)";

/// delay = min(max, base * multiplier ^ charged failures so far), less a random share of it, but at
/// least the `retry_after` of the service. All by the database's clock.
pub(super) const RETRY: &str = "
    WITH u AS (
        SELECT u.*, q.tid, q.charged
          FROM unnest($1::uuid[], $2::int2[], $3::int8[], $4::text[], $5::bool[], $6::float8[], $7::float8[], $8::float8[],
                      $9::float8[], $10::float8[], $11::text[], $12::text[], $13::text[], $14::uuid[], $15::timestamptz[],
                      $16::timestamptz[])
               AS u(task_id, step, lease, outcome, is_charged, base, multiplier, max, jitter, retry_after, code, message,
                    context, worker_id, was_ready_at, was_started_at)
         CROSS JOIN LATERAL (
               SELECT ctid AS tid, charged FROM queue
                WHERE task_id = u.task_id AND step = u.step AND lease = u.lease LIMIT 1) AS q
         LIMIT cardinality($1)),
    waiting AS (
        UPDATE queue q
           SET state = 'waiting_for_retry', due = false, charged = q.charged + u.is_charged::int::int2,
               lost = q.lost + (u.outcome = 'undelivered')::int::int2, lease = NULL,
               worker_id = NULL, started_at = NULL, deadline_at = NULL, share_id = NULL, ready_at = d.at,
               next_attempt_at = d.at
          FROM u
         CROSS JOIN LATERAL (
               SELECT $17::timestamptz + make_interval(secs => greatest(
                          least(u.max, u.base * u.multiplier ^ u.charged) * (1 - u.jitter * random()),
                          coalesce(u.retry_after, 0))) AS at) d
         WHERE q.ctid = u.tid
        RETURNING q.task_id, q.step, q.template_id, q.attempt, q.next_attempt_at, u.lease, u.outcome, u.is_charged,
                  u.retry_after, u.code, u.message, u.context, u.worker_id, u.was_ready_at, u.was_started_at),
    log AS (
        INSERT INTO events (at, type, template_id, task_id, step, attempt, worker_id, outcome, charged, lease, ready_at,
                            started_at, next_attempt_at, retry_after, error_code, error_message, error_context)
        SELECT $17::timestamptz, 'step.retrying', template_id, task_id, step, attempt, worker_id, outcome::attempt_outcome, is_charged,
               lease, was_ready_at, was_started_at, next_attempt_at, make_interval(secs => retry_after), code, message,
               context
          FROM waiting)
    SELECT expect_rows('retries in queue', count(*), $18),
           extract(epoch FROM min(next_attempt_at) - $17::timestamptz)::float8
      FROM waiting";

pub(super) const GIVE_BACK: &str = "
    WITH given AS (
        UPDATE queue q
           SET state = 'ready', due = NOT q.paused, lost = q.lost + u.lost::int::int2, lease = NULL, worker_id = NULL,
               started_at = NULL, deadline_at = NULL, share_id = NULL, ready_at = $5::timestamptz
          FROM (SELECT u.lost, q.tid
                  FROM unnest($1::uuid[], $2::int2[], $3::int8[], $4::bool[]) AS u(task_id, step, lease, lost)
                 CROSS JOIN LATERAL (
                       SELECT ctid AS tid FROM queue
                        WHERE task_id = u.task_id AND step = u.step AND lease = u.lease LIMIT 1) AS q
                 LIMIT cardinality($1)) AS u
         WHERE q.ctid = u.tid
        RETURNING 1)
    SELECT expect_rows('steps given back', count(*), $6) FROM given";

pub(super) const INSERT_LIVE: &str = concat!(
    "
    INSERT INTO queue (task_id, step, template_id, lane_id, priority, state, due, attempt, charged, ready_at,
                       next_attempt_at, lease, worker_id, started_at, deadline_at, share_id, timeout, expires_at, paused,
                       reopened, assignment_bytes, revision, forgiven)
    SELECT u.task_id, u.step, u.template_id, u.lane_id, u.priority,
           CASE WHEN u.lease IS NULL THEN 'ready' ELSE 'in_progress' END::step_state,
           u.lease IS NULL AND u.not_before IS NULL AND u.paused IS NULL,
           coalesce(u.attempt, 0) + (u.lease IS NOT NULL)::int, coalesce(u.charged, 0::int2), coalesce(u.not_before, c.now),
           u.not_before, u.lease, u.worker_id, CASE WHEN u.lease IS NOT NULL THEN c.now END,
           CASE WHEN u.lease IS NOT NULL THEN least(c.now + make_interval(secs => u.allowed), u.expires_at) END, u.share_id,
           u.timeout, u.expires_at, coalesce(u.paused, false), u.attempt IS NOT NULL,
           u.bytes, u.revision, coalesce(u.attempt - u.charged, 0)
      FROM unnest($1::uuid[], $2::int2[], $3::int4[], $4::int4[], $5::int2[], $6::int8[], $7::uuid[], $8::float8[], $9::int4[],
                  $10::int4[], $11::int2[], $12::float8[], $13::timestamptz[], $14::timestamptz[], $15::bool[],
                  $16::int4[], $17::int4[])
           AS u(task_id, step, template_id, lane_id, priority, lease, worker_id, allowed, share_id, attempt, charged, timeout,
                expires_at, not_before, paused, bytes, revision),
           (SELECT coalesce($18::timestamptz, now()) AS now) AS c
     WHERE (",
    check_admission!("$19", "$20", "coalesce($18::timestamptz, now())"),
    ")"
);

/// SKIP LOCKED: a row that another server is claiming, or whose task is being cancelled, is not
/// claimed. Nor is one that became ready after this transaction read the clock: no step may start
/// before it was ready. `due` is tested outside the subquery, where it cannot select the index of
/// claimable steps, in which a step is found by walking.
///
/// A task starts with its first claim, and its event precedes that of the step in the log. The
/// tasks are locked in the order of their ids, like all locks on task rows, and after
/// `UPDATE_TASKS`: a decision about a task with an order did not know that a claim would start it.
/// Any other transaction that locks the row of a pending task has first locked all its queue rows,
/// so that none of them was claimed here.
pub(super) const CLAIM: &str = concat!(
    "
    WITH claimed AS (
        UPDATE queue q
           SET state = 'in_progress', due = false, attempt = q.attempt + 1, lease = u.lease, worker_id = u.worker_id,
               started_at = $8::timestamptz,
               deadline_at = least($8::timestamptz + make_interval(secs => coalesce(q.timeout, u.timeout)), q.expires_at),
               next_attempt_at = NULL, share_id = u.share_id
          FROM (SELECT u.lease, u.worker_id, u.timeout, u.share_id, u.root, q.tid
                  FROM unnest($1::uuid[], $2::int2[], $3::int8[], $4::uuid[], $5::float8[], $6::int4[], $7::bool[])
                       AS u(task_id, step, lease, worker_id, timeout, share_id, root)
                 CROSS JOIN LATERAL (
                       SELECT ctid AS tid, due, coalesce(next_attempt_at, ready_at) AS since, expires_at FROM queue
                        WHERE task_id = u.task_id AND step = u.step LIMIT 1 FOR UPDATE SKIP LOCKED) AS q
                 WHERE q.due AND q.since <= $8::timestamptz AND coalesce(q.expires_at > $8::timestamptz, true)
                   AND (",
    check_admission!("$9", "$10", "$8::timestamptz"),
    ")
                 LIMIT cardinality($1)) AS u
         WHERE q.ctid = u.tid
        RETURNING q.task_id, q.step, q.template_id, q.lane_id, q.attempt, q.charged, q.lease, q.worker_id, q.deadline_at,
                  q.ready_at, u.root),
    started AS (
        UPDATE tasks t SET state = 'in_progress', started_at = $8::timestamptz
          FROM (SELECT t.tid
                  FROM (SELECT task_id FROM claimed WHERE root ORDER BY task_id) AS c
                 CROSS JOIN LATERAL (
                       SELECT ctid AS tid FROM tasks WHERE task_id = c.task_id AND state = 'pending' LIMIT 1 FOR UPDATE) AS t
                 LIMIT cardinality($1)) AS u
         WHERE t.ctid = u.tid
        RETURNING t.task_id, t.template_id),
    log AS (
        INSERT INTO events (at, type, template_id, task_id, step, attempt, worker_id, lease, ready_at)
        SELECT $8::timestamptz, 'task.started'::event_type, template_id, task_id, NULL, NULL, NULL, NULL, NULL FROM started
        UNION ALL
        SELECT $8::timestamptz, 'step.started'::event_type, template_id, task_id, step, attempt, worker_id, lease, ready_at
          FROM claimed)
    SELECT task_id, step, template_id, lane_id, attempt, charged, lease, worker_id, deadline_at FROM claimed"
);

/// A row that is not locked may differ from the `old_...` columns, and then it does not match; if
/// it changes during the statement, it is no longer at that `ctid`.
pub(super) const UPDATE_TASKS: &str = "
    WITH updated AS (
        UPDATE tasks t
           SET state = u.state::task_state, steps_live = u.live, steps_done = u.done, failed_step = u.failed,
               cancelled_by = u.cancelled_by, cancel_reason = u.reason, documents_bytes = u.bytes,
               started_at = CASE WHEN u.state IN ('in_progress', 'complete') THEN coalesce(t.started_at, $12::timestamptz, now())
                                 ELSE t.started_at END,
               ended_at = CASE WHEN u.state NOT IN ('pending', 'in_progress') THEN coalesce($12::timestamptz, now()) END
          FROM (SELECT u.*, t.tid
                  FROM unnest($1::uuid[], $2::text[], $3::int2[], $4::bytea[], $5::int2[], $6::text[], $7::text[],
                              $8::text[], $9::int2[], $10::bytea[], $11::int4[])
                       AS u(task_id, state, live, done, failed, cancelled_by, reason, old_state, old_live, old_done,
                            bytes)
                 CROSS JOIN LATERAL (
                       SELECT ctid AS tid FROM tasks
                        WHERE task_id = u.task_id
                          AND (u.old_done IS NULL
                               OR state::text = u.old_state AND steps_live = u.old_live AND steps_done = u.old_done
                                  AND ended_at IS NULL AND paused_at IS NULL)
                        LIMIT 1) AS t
                 LIMIT cardinality($1)) AS u
         WHERE t.ctid = u.tid
        RETURNING 1)
    SELECT expect_rows('tasks', count(*), $13), now() FROM updated";

pub(super) const INSERT_EVENTS: &str = "
    INSERT INTO events (at, type, template_id, task_id, step, attempt, worker_id, outcome, charged, lease, ready_at,
                        started_at, error_code, error_message, error_context, actor, detail)
    SELECT c.now, u.type::event_type, u.template_id, u.task_id, u.step, u.attempt, u.worker_id,
           u.outcome::attempt_outcome, u.charged, u.lease,
           CASE WHEN u.type = 'step.started' THEN c.now ELSE u.ready_at END, u.started_at, u.code, u.message, u.context,
           u.actor, u.detail
      FROM unnest($1::text[], $2::int4[], $3::uuid[], $4::int2[], $5::int4[], $6::uuid[], $7::text[], $8::bool[],
                  $9::int8[], $10::timestamptz[], $11::timestamptz[], $12::text[], $13::text[], $14::text[], $15::text[],
                  $16::text[])
           AS u(type, template_id, task_id, step, attempt, worker_id, outcome, charged, lease, ready_at, started_at, code,
                message, context, actor, detail),
           (SELECT coalesce($17::timestamptz, now()) AS now) AS c";

/// Extends a throttle that has not ended, and never shortens it. The history has one row for it,
/// however often it was extended.
pub(super) const THROTTLE: &str = "
    WITH u AS (
        SELECT u.service_id, c.now, c.now + make_interval(secs => u.seconds) AS until, s.tid,
               coalesce(s.throttled_until > c.now, false) AS goes_on
          FROM (SELECT coalesce($3::timestamptz, now()) AS now) AS c
         CROSS JOIN unnest($1::int4[], $2::float8[]) AS u(service_id, seconds)
         CROSS JOIN LATERAL (
               SELECT ctid AS tid, throttled_until FROM services WHERE service_id = u.service_id LIMIT 1 FOR UPDATE) AS s
         WHERE s.throttled_until IS NULL OR s.throttled_until < c.now + make_interval(secs => u.seconds)
         LIMIT cardinality($1)),
    longer AS (UPDATE services s SET throttled_until = u.until, version = version + 1 FROM u WHERE s.ctid = u.tid),
    known AS (
        UPDATE circuit_changes h SET until = u.until
          FROM (SELECT u.until, h.tid
                  FROM u CROSS JOIN LATERAL (
                       SELECT ctid AS tid FROM circuit_changes
                        WHERE service_id = u.service_id AND type = 'circuit.paused' ORDER BY at DESC LIMIT 1) AS h
                 WHERE u.goes_on LIMIT cardinality($1)) AS u
         WHERE h.ctid = u.tid),
    new AS (
        INSERT INTO circuit_changes (service_id, at, type, until, detail)
        SELECT service_id, now, 'circuit.paused', until, 'retry_after of the service' FROM u WHERE NOT goes_on)
    INSERT INTO events (at, type, service_id, next_attempt_at)
    SELECT now, 'circuit.paused', service_id, until FROM u WHERE NOT goes_on";

/// Locks quota shares in use: a transaction that takes a share away waits for this one, or commits
/// first, and then this one fails.
pub(super) const LOCK_SHARES: &str = concat!(
    "
    SELECT expect_rows('",
    stale_admission!("term of a quota share"),
    "', count(*), cardinality($1::int4[]))
      FROM unnest($1::int4[], $2::int8[]) AS u(share_id, term)
     CROSS JOIN LATERAL (
           SELECT FROM quota_shares WHERE share_id = u.share_id AND term = u.term LIMIT 1 FOR KEY SHARE) AS s"
);

/// Consumes probes, one per start.
pub(super) const SPEND_PROBES: &str = concat!(
    "
    WITH spent AS (
        UPDATE quota_shares s SET count = s.count - u.spent
          FROM (SELECT u.spent, s.tid
                  FROM unnest($1::int4[], $2::int8[], $3::int4[]) AS u(share_id, term, spent)
                 CROSS JOIN LATERAL (
                       SELECT ctid AS tid FROM quota_shares
                        WHERE share_id = u.share_id AND term = u.term AND count >= u.spent LIMIT 1 FOR UPDATE) AS s
                 LIMIT cardinality($1)) AS u
         WHERE s.ctid = u.tid
        RETURNING 1)
    SELECT expect_rows('",
    stale_admission!("probes of a quota share"),
    "', count(*), cardinality($1::int4[])) FROM spent"
);

/// The documents of the claimed steps' tasks, for their handlers.
pub(super) const TASK_INPUTS: &str = "
    SELECT task_id, correlation_id, traceparent, annotations, context, settings, revision
      FROM tasks WHERE task_id = ANY($1::uuid[])";

/// The results of the claimed steps' ancestors. A skipped step has none, which its children see as
/// null.
pub(super) const RESULT_INPUTS: &str = "
    SELECT s.task_id, s.step, s.result
      FROM unnest($1::uuid[], $2::int2[]) AS u(task_id, step)
     CROSS JOIN LATERAL (
           SELECT task_id, step, coalesce(result, 'null') AS result FROM steps
            WHERE task_id = u.task_id AND step = u.step AND state IN ('complete', 'skipped', 'resolved_manually')
            LIMIT 1) AS s";
