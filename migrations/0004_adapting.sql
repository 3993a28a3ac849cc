-- Tasks that adapt (overrides, planners, conditions, deadlines), and operators' orders.

-- The environment of a template's registration: every server resolves the template for this one.
ALTER TABLE templates ADD COLUMN environment text NOT NULL DEFAULT '';

-- Pauses of a whole namespace, or of a template in all its versions. An empty task_name stands for
-- the namespace. The claim reads lane by lane, so a pause closes lanes and rewrites no waiting row.
CREATE TABLE pauses (
    namespace text NOT NULL,
    task_name text NOT NULL,
    paused_at timestamptz NOT NULL,
    paused_by text NOT NULL,
    reason    text NOT NULL,
    PRIMARY KEY (namespace, task_name)
);

-- A pause of a template needs lanes of its own, so each lane belongs to one template name. An
-- existing lane keeps the template whose steps it has, or the first by name if several share it;
-- the others get new lanes.
ALTER TABLE lanes ADD COLUMN task_name text NOT NULL DEFAULT '';
ALTER TABLE lanes DROP CONSTRAINT lanes_namespace_handler_service_key;
UPDATE lanes l SET task_name = coalesce((SELECT min(t.task_name) FROM template_steps d JOIN templates t USING (template_id)
                                          WHERE d.lane_id = l.lane_id), '');
INSERT INTO lanes (namespace, handler, service, service_id, task_name)
SELECT DISTINCT l.namespace, l.handler, l.service, l.service_id, t.task_name
  FROM template_steps d JOIN templates t USING (template_id) JOIN lanes l USING (lane_id)
 WHERE t.task_name <> l.task_name;
ALTER TABLE template_steps DISABLE TRIGGER template_steps_immutable;
UPDATE template_steps d SET lane_id = new.lane_id
  FROM templates t, lanes old, lanes new
 WHERE t.template_id = d.template_id AND old.lane_id = d.lane_id AND old.task_name <> t.task_name
   AND (new.namespace, new.handler, new.service, new.task_name) = (old.namespace, old.handler, old.service, t.task_name);
ALTER TABLE template_steps ENABLE TRIGGER template_steps_immutable;
UPDATE queue q SET lane_id = d.lane_id
  FROM template_steps d WHERE d.template_id = q.template_id AND d.step = q.step AND d.lane_id <> q.lane_id;
ALTER TABLE lanes ALTER task_name DROP DEFAULT;
ALTER TABLE lanes ADD UNIQUE (namespace, task_name, handler, service);

ALTER TABLE tasks
    -- JSON of domain::settings: changes by overrides and the planner.
    ADD COLUMN settings       text,
    ADD COLUMN not_before     timestamptz,        -- specified by the submit
    ADD COLUMN expires_at     timestamptz,        -- the deadline
    ADD COLUMN paused_at      timestamptz,
    ADD COLUMN paused_by      text,
    ADD COLUMN pause_reason   text,
    ADD COLUMN resolved_by    text,
    ADD COLUMN resolve_reason text,
    ADD COLUMN error_code     text;               -- set for a task that failed as a whole

DROP INDEX tasks_failed;
CREATE INDEX tasks_failed ON tasks (task_id) WHERE failed_step IS NOT NULL OR error_code IS NOT NULL;
CREATE INDEX tasks_paused ON tasks (task_id) WHERE paused_at IS NOT NULL;

-- Deadlines of tasks. They are a table of their own, since an index on tasks would raise the cost
-- of each update there. A row is removed at its time, in whatever state the task is.
CREATE TABLE task_deadlines (
    task_id    uuid PRIMARY KEY,
    expires_at timestamptz NOT NULL
);
CREATE INDEX task_deadlines_by_time ON task_deadlines (expires_at);

-- Actor and reason, for a step that an operator or a condition ended.
ALTER TABLE steps ADD COLUMN set_by text, ADD COLUMN set_reason text;

ALTER TABLE queue
    -- Limit of an attempt in seconds, if not the template's.
    ADD COLUMN timeout    double precision,
    -- Deadline of the task: no attempt starts after it.
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN paused     boolean NOT NULL DEFAULT false,
    ADD COLUMN reopened   boolean NOT NULL DEFAULT false; -- an operator retries it

DROP INDEX queue_retry;
CREATE INDEX queue_retry ON queue (next_attempt_at) WHERE next_attempt_at IS NOT NULL AND NOT due AND NOT paused;

-- Actor of the order; the reason is in detail.
ALTER TABLE events ADD COLUMN actor text;

CREATE OR REPLACE VIEW row_violations AS
    SELECT 'task' AS kind, task_id, NULL::smallint AS step, v.violation
      FROM tasks, LATERAL (VALUES
           ('priority is out of range', priority BETWEEN -100 AND 100),
           ('it has no steps', steps_total > 0),
           ('it has started, or not, against its state',
            state = 'cancelled' OR error_code IS NOT NULL OR (state = 'pending') = (started_at IS NULL)),
           ('it has ended, or not, against its state',
            (state IN ('complete', 'error', 'cancelled', 'resolved_manually')) = (ended_at IS NOT NULL)),
           ('it has ended with steps in play, or has none and has not', (ended_at IS NULL) = (steps_live > 0)),
           ('it failed without a reason', state <> 'error' OR num_nonnulls(failed_step, error_code) > 0),
           ('it was cancelled by nobody, or is not cancelled', (state = 'cancelled') = (cancelled_by IS NOT NULL)),
           ('it was resolved by nobody, or is not resolved', (state = 'resolved_manually') = (resolved_by IS NOT NULL)),
           ('it is paused by nobody, or is not paused', num_nonnulls(paused_at, paused_by, pause_reason) IN (0, 3))
           ) AS v(violation, holds)
     WHERE NOT holds
    UNION ALL
    SELECT 'step', task_id, step, v.violation
      FROM steps, LATERAL (VALUES
           ('its state is not final', state IN ('complete', 'error', 'cancelled', 'skipped', 'resolved_manually')),
           ('it has a result, or none, against its state',
            (state IN ('complete', 'resolved_manually')) = (result IS NOT NULL)),
           ('it has an error, or none, against its state', state <> 'error' OR error_message IS NOT NULL),
           ('it ended without a start and without a word', state = 'cancelled' OR num_nonnulls(started_at, set_by) > 0)
           ) AS v(violation, holds)
     WHERE NOT holds
    UNION ALL
    SELECT 'queue', task_id, step, v.violation
      FROM queue, LATERAL (VALUES
           ('its state is not one of play', state IN ('ready', 'in_progress', 'waiting_for_retry')),
           ('it has a lease, or part of one, against its state',
            num_nonnulls(lease, worker_id, started_at, deadline_at) = CASE WHEN state = 'in_progress' THEN 4 ELSE 0 END),
           ('it has a time of the next attempt, or none, against its state',
            CASE WHEN state = 'waiting_for_retry' THEN next_attempt_at IS NOT NULL
                 WHEN next_attempt_at IS NOT NULL
                 THEN state = 'ready' AND (SELECT t.not_before IS NOT NULL FROM tasks t WHERE t.task_id = queue.task_id)
                 ELSE true END),
           ('nothing wakes it, or it is claimable against its state',
            paused OR CASE state WHEN 'ready' THEN due OR next_attempt_at IS NOT NULL
                                 WHEN 'in_progress' THEN NOT due ELSE true END),
           ('it is paused and claimable', NOT (paused AND due)),
           ('it is paused and its task is not, or the other way round',
            paused = (SELECT t.paused_at IS NOT NULL FROM tasks t WHERE t.task_id = queue.task_id))
           ) AS v(violation, holds)
     WHERE NOT holds;

-- A paused step is no violation: an operator's order ends the pause.
CREATE OR REPLACE VIEW liveness_violations AS
    SELECT t.task_id, NULL::smallint AS step, 'it is not final, and no step of it is in play' AS violation
      FROM tasks t
     WHERE t.ended_at IS NULL AND NOT EXISTS (SELECT FROM queue q WHERE q.task_id = t.task_id)
    UNION ALL
    SELECT q.task_id, q.step, 'it is in play, and its task is over or not there'
      FROM queue q LEFT JOIN tasks t ON t.task_id = q.task_id
     WHERE t.task_id IS NULL OR t.ended_at IS NOT NULL
    UNION ALL
    SELECT q.task_id, q.step, 'it is in play, and nothing wakes it'
      FROM queue q LEFT JOIN tasks t ON t.task_id = q.task_id
     WHERE NOT CASE q.state
               WHEN 'ready' THEN q.due OR q.next_attempt_at IS NOT NULL OR q.paused AND t.paused_at IS NOT NULL
               WHEN 'in_progress' THEN num_nonnulls(q.lease, q.worker_id, q.started_at, q.deadline_at) = 4
               WHEN 'waiting_for_retry' THEN q.due OR q.next_attempt_at IS NOT NULL
               ELSE false END;

-- The end of a task as a whole also ends its steps that never came into play.
CREATE OR REPLACE VIEW step_status AS
    SELECT t.task_id, d.step, d.name, l.namespace, l.handler, l.service,
           coalesce(q.state, s.state, CASE WHEN t.state = 'cancelled' OR t.error_code IS NOT NULL THEN 'cancelled' ELSE 'pending' END::step_state) AS state,
           coalesce(q.attempt, s.attempt, 0) AS attempt,
           coalesce(q.charged, s.charged, 0::smallint) AS charged,
           coalesce(q.ready_at, s.ready_at) AS ready_at,
           coalesce(q.started_at, s.started_at) AS started_at,
           coalesce(s.ended_at, CASE WHEN t.state = 'cancelled' OR t.error_code IS NOT NULL THEN t.ended_at END) AS ended_at,
           q.next_attempt_at, q.deadline_at, q.worker_id,
           s.result, s.error_code, s.error_message, s.error_context
      FROM tasks t
      JOIN template_steps d ON d.template_id = t.template_id
      JOIN lanes l ON l.lane_id = d.lane_id
      LEFT JOIN steps s ON s.task_id = t.task_id AND s.step = d.step
      LEFT JOIN queue q ON q.task_id = t.task_id AND q.step = d.step;
