//! The statements that write the effects of operators, conditions, deadlines and planners: rare,
//! but in the same transactions as the others. As in `writes`, each list is one statement, and a
//! row is found by its key and changed by its `ctid`.

/// Ends steps without an attempt. A step that waits in the queue leaves it; the row of a failed
/// step is overwritten.
pub(super) const SET_STEPS: &str = "
    WITH u AS (
        SELECT * FROM unnest($1::uuid[], $2::int2[], $3::text[], $4::bool[], $5::int4[], $6::int2[], $7::timestamptz[],
                             $8::timestamptz[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[])
                      AS u(task_id, step, state, in_queue, attempt, charged, ready_at, started_at, result, code, message,
                           context, set_by, reason)),
    gone AS (
        DELETE FROM queue q
         USING (SELECT q.tid
                  FROM u CROSS JOIN LATERAL (
                       SELECT ctid AS tid FROM queue
                        WHERE task_id = u.task_id AND step = u.step AND lease IS NULL LIMIT 1) AS q
                 WHERE u.in_queue LIMIT cardinality($1)) AS u
         WHERE q.ctid = u.tid
        RETURNING 1)
    INSERT INTO steps (task_id, step, state, attempt, charged, ready_at, started_at, ended_at, result, error_code,
                       error_message, error_context, set_by, set_reason)
    SELECT task_id, step, state::step_state, attempt, charged, coalesce(ready_at, c.now), started_at, c.now, result, code,
           message, context, set_by, reason
      FROM u, (SELECT coalesce($15::timestamptz, now()) AS now) AS c
     WHERE (SELECT expect_rows('steps set in queue', count(*), (SELECT count(*) FROM u WHERE in_queue)) FROM gone)
        ON CONFLICT (task_id, step) DO UPDATE
       SET state = excluded.state, ended_at = excluded.ended_at, result = excluded.result, set_by = excluded.set_by,
           set_reason = excluded.set_reason";

/// Deletes the ends of failed steps; their attempts stay in the history.
pub(super) const REOPEN: &str = "
    WITH gone AS (
        DELETE FROM steps s
         USING (SELECT s.tid
                  FROM unnest($1::uuid[], $2::int2[]) AS u(task_id, step)
                 CROSS JOIN LATERAL (
                       SELECT ctid AS tid FROM steps
                        WHERE task_id = u.task_id AND step = u.step AND state = 'error' LIMIT 1) AS s
                 LIMIT cardinality($1)) AS u
         WHERE s.ctid = u.tid
        RETURNING 1)
    SELECT expect_rows('steps tried again', count(*), cardinality($1::uuid[])) FROM gone";

/// Pauses or resumes a task with all its rows in play. Running attempts continue; the pause applies
/// to the next ones.
pub(super) const PAUSE_TASKS: &str = "
    WITH u AS (
        SELECT u.*, t.tid
          FROM unnest($1::uuid[], $2::text[], $3::text[]) AS u(task_id, paused_by, reason)
         CROSS JOIN LATERAL (SELECT ctid AS tid FROM tasks WHERE task_id = u.task_id LIMIT 1) AS t
         LIMIT cardinality($1)),
    live AS (
        UPDATE queue q
           SET paused = u.paused_by IS NOT NULL,
               due = u.paused_by IS NULL AND q.lease IS NULL
                     AND coalesce(q.next_attempt_at <= coalesce($4::timestamptz, now()), true)
          FROM (SELECT u.paused_by, q.tid
                  FROM u CROSS JOIN LATERAL (SELECT ctid AS tid FROM queue WHERE task_id = u.task_id LIMIT 1000) AS q
                 LIMIT cardinality($1) * 1000) AS u
         WHERE q.ctid = u.tid),
    paused AS (
        UPDATE tasks t
           SET paused_at = CASE WHEN u.paused_by IS NOT NULL THEN coalesce($4::timestamptz, now()) END,
               paused_by = u.paused_by, pause_reason = u.reason
          FROM u WHERE t.ctid = u.tid
        RETURNING 1)
    SELECT expect_rows('paused tasks', count(*), cardinality($1::uuid[])) FROM paused";

/// Sets why tasks ended as a whole.
pub(super) const MARK: &str = "
    UPDATE tasks t SET resolved_by = u.resolved_by, resolve_reason = u.reason, error_code = u.code
      FROM (SELECT u.*, t.tid
              FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) AS u(task_id, resolved_by, reason, code)
             CROSS JOIN LATERAL (SELECT ctid AS tid FROM tasks WHERE task_id = u.task_id LIMIT 1) AS t
             LIMIT cardinality($1)) AS u
     WHERE t.ctid = u.tid";

/// Stores the adjustments by planners.
pub(super) const PLAN: &str = "
    UPDATE tasks t SET settings = u.settings, annotations = u.annotations, priority = u.priority,
                       revision = t.revision + 1
      FROM (SELECT u.*, t.tid
              FROM unnest($1::uuid[], $2::text[], $3::text[], $4::int2[]) AS u(task_id, settings, annotations, priority)
             CROSS JOIN LATERAL (SELECT ctid AS tid FROM tasks WHERE task_id = u.task_id LIMIT 1) AS t
             LIMIT cardinality($1)) AS u
     WHERE t.ctid = u.tid";

/// Stores the deadlines of tasks.
pub(super) const SET_DEADLINES: &str = "
    INSERT INTO task_deadlines (task_id, expires_at) SELECT * FROM unnest($1::uuid[], $2::timestamptz[])";

/// Deletes deadlines that are no longer watched.
pub(super) const DROP_DEADLINES: &str = "
    DELETE FROM task_deadlines d
     USING (SELECT d.tid
              FROM unnest($1::uuid[]) AS u(task_id)
             CROSS JOIN LATERAL (SELECT ctid AS tid FROM task_deadlines WHERE task_id = u.task_id LIMIT 1) AS d
             LIMIT cardinality($1)) AS u
     WHERE d.ctid = u.tid";

/// Stores late results, the first of each attempt, and an event for each. A result of a removed
/// task is not stored.
pub(super) const LATE_RESULTS: &str = "
    WITH late AS (
        INSERT INTO late_results (task_id, step, lease, at, outcome)
        SELECT u.task_id, u.step, u.lease, coalesce($5::timestamptz, now()), u.outcome::attempt_outcome
          FROM unnest($1::uuid[], $2::int2[], $3::int8[], $4::text[]) AS u(task_id, step, lease, outcome)
         CROSS JOIN LATERAL (SELECT FROM tasks WHERE task_id = u.task_id LIMIT 1) AS t
            ON CONFLICT DO NOTHING
        RETURNING task_id, step, lease, at, outcome)
    INSERT INTO events (at, type, template_id, task_id, step, attempt, worker_id, detail)
    SELECT l.at, 'step.answered_late', t.template_id, l.task_id, l.step, a.attempt, a.worker_id, l.outcome::text
      FROM late AS l
     CROSS JOIN LATERAL (SELECT template_id FROM tasks WHERE task_id = l.task_id LIMIT 1) AS t
      LEFT JOIN LATERAL (
           SELECT attempt, worker_id FROM attempts WHERE task_id = l.task_id AND step = l.step AND lease = l.lease LIMIT 1) AS a
           ON true";
