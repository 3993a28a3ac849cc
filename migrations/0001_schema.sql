-- All tables are in one schema. No statement here qualifies a name with it, so search_path alone
-- selects the cell.
--
-- The hot tables (tasks, steps, queue, events) have no foreign keys and no CHECK constraints. A
-- trigger per row would cost more than the row, and Postgres parses a constraint anew for every
-- statement, which doubled the cost of a one-row update (docs/performance.md). The view
-- row_violations has these conditions instead; it must always be empty.

CREATE TYPE task_state AS ENUM (
    'pending', 'in_progress', 'complete', 'error', 'cancelled', 'resolved_manually');

CREATE TYPE step_state AS ENUM (
    'pending', 'ready', 'in_progress', 'waiting_for_retry', 'complete', 'error', 'cancelled', 'skipped',
    'resolved_manually');

CREATE TYPE attempt_outcome AS ENUM (
    'succeeded', 'retryable_error', 'permanent_error', 'timed_out', 'worker_lost', 'released', 'undelivered', 'cancelled',
    'drained');

CREATE TYPE event_type AS ENUM (
    'task.submitted', 'task.started', 'task.completed', 'task.failed', 'task.cancelled', 'task.repaired',
    'step.started', 'step.completed', 'step.failed', 'step.retrying', 'step.cancelled',
    'worker.connected', 'worker.lost',
    'circuit.opened', 'circuit.half_opened', 'circuit.closed', 'circuit.forced', 'circuit.released', 'circuit.reset',
    'circuit.paused', 'circuit.policy_changed',
    'task.reopened', 'task.resolved', 'task.paused', 'task.resumed', 'task.planned',
    'step.reopened', 'step.resolved', 'step.skipped',
    'pause.set', 'pause.lifted',
    'step.answered_late',
    'template.retired', 'template.restored');

CREATE TYPE circuit_state AS ENUM ('closed', 'open', 'half_open');

CREATE TYPE template_standing AS ENUM ('retired', 'restored', 'removed');

-- Templates ---------------------------------------------------------------------------------------

CREATE TABLE templates (
    template_id   int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    namespace     text NOT NULL,
    task_name     text NOT NULL,
    version       text NOT NULL,
    yaml          text NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT now(),
    -- The environment of the registration; every server reads the template in that one.
    environment   text NOT NULL DEFAULT '',
    UNIQUE (namespace, task_name, version)
);

-- State of a version that was retired at some time; its own row keeps the registration. Each change
-- takes the next number, and the registration lock serialises the writers (store/template.rs), so
-- numbers become visible in ascending order, and a server reads the rows above the last number it
-- knows.
CREATE TABLE retirements (
    template_id int PRIMARY KEY,                  -- a removed version has no row in templates
    change_id   bigint NOT NULL GENERATED ALWAYS AS IDENTITY UNIQUE,
    standing    template_standing NOT NULL,
    at          timestamptz NOT NULL,
    actor       text NOT NULL,
    reason      text NOT NULL
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% rows never change: register a new version instead', TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;

-- A registered version still never changes. Retention removes it only after its retirement.
CREATE FUNCTION refuse_removal() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM retirements WHERE template_id = OLD.template_id AND standing = 'retired') THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION '% rows stay while their template is not retired: retire it first', TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER templates_immutable BEFORE UPDATE ON templates
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER templates_stay BEFORE DELETE ON templates
    FOR EACH ROW EXECUTE FUNCTION refuse_removal();

-- Services and lanes ------------------------------------------------------------------------------

-- The dependencies that steps of a namespace call: the unit that circuits, throttles and limits
-- protect. A claim checks the row's admission version; the row is written when its admission
-- changes, never per step.
CREATE TABLE services (
    service_id    int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    namespace     text NOT NULL,
    service       text NOT NULL,
    -- Admission version; raised with each change of the admission.
    version       bigint NOT NULL DEFAULT 0,
    state         circuit_state NOT NULL DEFAULT 'closed',
    since         timestamptz NOT NULL DEFAULT now(),
    -- Open: first probe; half-open: next probes; closed: end of the ramp.
    until         timestamptz,
    -- Consecutive openings; reset when the ramp after a recovery ends.
    openings      int NOT NULL DEFAULT 0,
    probes_left   int NOT NULL DEFAULT 0,         -- half-open: not assigned to a server yet
    probes_passed int NOT NULL DEFAULT 0,         -- half-open: succeeded
    forced        circuit_state,                  -- ordered by an operator: open or closed
    forced_by     text,
    forced_reason text,
    forced_until  timestamptz,
    throttled_until timestamptz,                  -- by a `retry_after` of the service
    tokens        double precision,               -- of the rate limit, as of refilled_at
    refilled_at   timestamptz,
    -- The transaction that last changed the admission. It is not a time, since a transaction that
    -- began early may commit late: a reader continues from the oldest transaction that was running
    -- at its last read, and so misses none.
    changed_in    xid8 NOT NULL DEFAULT pg_current_xact_id(),
    UNIQUE (namespace, service)
) WITH (fillfactor = 50);

CREATE INDEX services_changed ON services (changed_in);

-- Few services are in a state that ends by itself. An update of other columns does not touch this
-- index.
CREATE INDEX services_lapse ON services (least(until, forced_until)) WHERE until IS NOT NULL OR forced_until IS NOT NULL;

CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed_in := pg_current_xact_id();
    RETURN NEW;
END $$;

-- The columns of tokens and probes are left out: they change often, and servers do not cache them.
CREATE TRIGGER services_changed BEFORE UPDATE OF version, state, since, until, openings, forced, forced_until, throttled_until ON services
    FOR EACH ROW EXECUTE FUNCTION note_change();

-- The settings of operators, as JSON with the fields of domain::policy. An empty service stands for
-- the whole namespace, an empty namespace for the whole cell; for each field the narrowest setting
-- applies.
CREATE TABLE service_policies (
    namespace  text NOT NULL,
    service    text NOT NULL,
    policy     text NOT NULL,
    PRIMARY KEY (namespace, service)
);

-- The rolling window of a circuit: the ended attempts, per slice of time.
CREATE TABLE service_health (
    service_id int NOT NULL,
    -- Number of the slice since the epoch; its length is a tenth of the window.
    slice      bigint NOT NULL,
    calls      int NOT NULL,
    failures   int NOT NULL,
    PRIMARY KEY (service_id, slice)
) WITH (fillfactor = 50);

-- Quota shares: how many steps a server may admit to a service that has a limit or a half-open
-- circuit. The shares of all servers together never exceed the limit. Running attempts carry the id
-- of their share, so its use is known even after the failure of its server.
CREATE TABLE quota_shares (
    share_id   int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    service_id int NOT NULL,
    server_id  uuid NOT NULL,
    count      int NOT NULL,
    wanted     int NOT NULL,                      -- how many steps the server could admit
    term       bigint NOT NULL DEFAULT 0,         -- raised unless its own server enlarges it
    seen_at    timestamptz NOT NULL,
    UNIQUE (service_id, server_id)
) WITH (fillfactor = 50);

-- One row per change of a circuit: the history for operators.
CREATE TABLE circuit_changes (
    change_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    service_id int NOT NULL,
    at         timestamptz NOT NULL,
    type       event_type NOT NULL,
    until      timestamptz,                       -- when the state ends by itself, as last known
    calls      int,                               -- opened: ended attempts in the window
    failures   int,
    actor      text,
    detail     text                               -- reason, or policy as JSON
);

CREATE INDEX circuit_changes_of_service ON circuit_changes (service_id, at);

-- A lane is the queue of the steps that share namespace, template name, handler and service. The
-- claim reads lane by lane, so a blocked lane (no worker, an open circuit, an exhausted limit, a
-- paused template) costs the other lanes nothing, however many steps wait in it.
CREATE TABLE lanes (
    lane_id    int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    namespace  text NOT NULL,
    handler    text NOT NULL,
    service    text NOT NULL,
    service_id int NOT NULL REFERENCES services,
    task_name  text NOT NULL,
    UNIQUE (namespace, task_name, handler, service)
);

CREATE INDEX lanes_of_service ON lanes (service_id);

CREATE TABLE template_steps (
    template_id int NOT NULL REFERENCES templates,
    step        smallint NOT NULL,
    name        text NOT NULL,
    lane_id     int NOT NULL REFERENCES lanes,
    PRIMARY KEY (template_id, step)
);

CREATE INDEX template_steps_of_lane ON template_steps (lane_id);

CREATE TRIGGER template_steps_immutable BEFORE UPDATE ON template_steps
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER template_steps_stay BEFORE DELETE ON template_steps
    FOR EACH ROW EXECUTE FUNCTION refuse_removal();

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

-- Tasks -------------------------------------------------------------------------------------------

CREATE TABLE tasks (
    task_id        uuid PRIMARY KEY,              -- version 7: sorts by age
    template_id    int NOT NULL,
    state          task_state NOT NULL,
    priority       smallint NOT NULL,             -- -100 to 100
    steps_total    smallint NOT NULL,
    steps_live     smallint NOT NULL,             -- number of the task's rows in queue
    steps_done     bytea NOT NULL,                -- bit i of byte i/8 set: step i is complete
    failed_step    smallint,                      -- the step that failed for good first
    submitted_at   timestamptz NOT NULL,
    started_at     timestamptz,
    ended_at       timestamptz,
    cancelled_by   text,
    cancel_reason  text,
    correlation_id text NOT NULL,
    traceparent    text,
    annotations    text NOT NULL,                 -- JSON object
    -- JSON object; the client's bytes unless defaults were added.
    context        text NOT NULL,
    settings       text,                          -- JSON of domain::settings: overrides and plan
    not_before     timestamptz,                   -- as submitted
    expires_at     timestamptz,                   -- the deadline
    paused_at      timestamptz,
    paused_by      text,
    pause_reason   text,
    resolved_by    text,
    resolve_reason text,
    error_code     text,                          -- of a task that failed without a failed step
    -- Upper bound: context, annotations, settings and all results; NULL: unknown.
    documents_bytes int,
    -- Raised with each change of settings, annotations or priority.
    revision       int NOT NULL DEFAULT 0
) WITH (fillfactor = 60);

-- None of these columns changes in a task without failures, so its updates stay heap-only (HOT).
--
-- The condition of the first two is always true. It excludes them from the plans of statements that
-- look up a task by its id and lack the condition: a planner with the statistics of an empty table
-- rates a scan of one of these as cheap as the primary key, and the cached plan stays when the
-- table has a million rows (docs/performance.md). Statements of lists include the condition.
CREATE INDEX tasks_by_template ON tasks (template_id, task_id) WHERE steps_total > 0;
CREATE INDEX tasks_by_correlation ON tasks (correlation_id, task_id) WHERE steps_total > 0;
CREATE INDEX tasks_failed ON tasks (task_id) WHERE failed_step IS NOT NULL OR error_code IS NOT NULL;
CREATE INDEX tasks_cancelled ON tasks (task_id) WHERE cancelled_by IS NOT NULL;
CREATE INDEX tasks_paused ON tasks (task_id) WHERE paused_at IS NOT NULL;

CREATE TABLE idempotency_keys (
    namespace text NOT NULL,
    key       text NOT NULL,
    task_id   uuid NOT NULL,
    digest    bytea NOT NULL,                     -- SHA-256 of the submitted content
    PRIMARY KEY (namespace, key)
);

-- Deadlines of tasks. They are a table of their own, since an index on tasks would raise the cost
-- of each update there. A row is removed at its time, in whatever state the task is.
CREATE TABLE task_deadlines (
    task_id    uuid PRIMARY KEY,
    expires_at timestamptz NOT NULL
);
CREATE INDEX task_deadlines_by_time ON task_deadlines (expires_at);

-- Steps -------------------------------------------------------------------------------------------

-- One row per ended step, written once. Before that, a step in play (ready, in progress, waiting
-- for a retry) has a row in queue, and a step that waits for its parents has no row: only the
-- template contains it. The view step_status combines the three.
CREATE TABLE steps (
    task_id       uuid NOT NULL,
    step          smallint NOT NULL,              -- position in the template
    state         step_state NOT NULL,            -- a final one
    attempt       int NOT NULL,                   -- number of the last attempt
    charged       smallint NOT NULL,              -- attempts that counted against the retry limit
    result        text,                           -- JSON
    error_code    text,
    error_message text,
    error_context text,                           -- JSON object
    ready_at      timestamptz NOT NULL,
    started_at    timestamptz,                    -- of the last attempt
    ended_at      timestamptz NOT NULL,
    -- Set if an operator or a condition ended the step.
    set_by        text,
    set_reason    text,
    PRIMARY KEY (task_id, step)
);

-- One narrow row per step in play. The claim, the retries and the reaper scan only this table. It
-- contains live steps alone, so its size follows the current work and never the history.
CREATE TABLE queue (
    task_id         uuid NOT NULL,
    step            smallint NOT NULL,
    template_id     int NOT NULL,
    lane_id         int NOT NULL,
    priority        smallint NOT NULL,
    state           step_state NOT NULL,          -- ready, in_progress or waiting_for_retry
    due             boolean NOT NULL,             -- whether a claim may take it now
    attempt         int NOT NULL DEFAULT 0,       -- number of the running or last attempt
    charged         smallint NOT NULL DEFAULT 0,
    lost            smallint NOT NULL DEFAULT 0,  -- attempts lost with their worker
    ready_at        timestamptz NOT NULL,         -- since when it is claimable, apart from back-off
    next_attempt_at timestamptz,
    lease           bigint,                       -- random; proves the right to the running attempt
    worker_id       uuid,
    started_at      timestamptz,
    deadline_at     timestamptz,
    share_id        int,                          -- quota share that the attempt uses
    timeout         double precision,             -- seconds per attempt, if not the template's
    expires_at      timestamptz,                  -- deadline of the task: no start after it
    paused          boolean NOT NULL DEFAULT false,
    reopened        boolean NOT NULL DEFAULT false, -- an operator ordered another try
    -- Upper bound; NULL, as in nearly every row: less than every worker accepts.
    assignment_bytes int,
    -- Revision of the task when the step came into play; NULL: 0.
    revision        int,
    -- Uncharged attempts at the last retry by an operator; they no longer count towards the limit
    -- on free attempts.
    forgiven        int NOT NULL DEFAULT 0,
    PRIMARY KEY (task_id, step)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE INDEX queue_claim ON queue (lane_id, priority DESC, task_id, step) WHERE due;
CREATE INDEX queue_worker ON queue (worker_id) WHERE worker_id IS NOT NULL;
CREATE INDEX queue_retry ON queue (next_attempt_at) WHERE next_attempt_at IS NOT NULL AND NOT due AND NOT paused;
-- The steps that some workers do not accept.
CREATE INDEX queue_large ON queue (task_id, step) WHERE assignment_bytes IS NOT NULL;

-- The first answer to each attempt that had ended without one; it had no effect. Rows are rare, and
-- retention removes them with their task.
CREATE TABLE late_results (
    task_id uuid NOT NULL,
    step    smallint NOT NULL,
    lease   bigint NOT NULL,
    at      timestamptz NOT NULL,
    outcome attempt_outcome NOT NULL,             -- outcome that the answer reported
    PRIMARY KEY (task_id, step, lease)
);

-- The end of a task as a whole also ends its steps that never came into play.
CREATE VIEW step_status AS
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

-- Consistency -------------------------------------------------------------------------------------

-- Inconsistent rows. The view must always be empty; tests check it at their end.
CREATE VIEW row_violations AS
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
           ('it has an actor of its cancellation, or none, against its state', (state = 'cancelled') = (cancelled_by IS NOT NULL)),
           ('it has an actor of its resolution, or none, against its state', (state = 'resolved_manually') = (resolved_by IS NOT NULL)),
           ('it is paused without a time, an actor or a reason', num_nonnulls(paused_at, paused_by, pause_reason) IN (0, 3))
           ) AS v(violation, holds)
     WHERE NOT holds
    UNION ALL
    SELECT 'step', task_id, step, v.violation
      FROM steps, LATERAL (VALUES
           ('its state is not final', state IN ('complete', 'error', 'cancelled', 'skipped', 'resolved_manually')),
           ('it has a result, or none, against its state',
            (state IN ('complete', 'resolved_manually')) = (result IS NOT NULL)),
           ('it has an error, or none, against its state', state <> 'error' OR error_message IS NOT NULL),
           ('it ended without a start and without an actor', state = 'cancelled' OR num_nonnulls(started_at, set_by) > 0)
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
           ('it is paused, or not, against its task',
            paused = (SELECT t.paused_at IS NOT NULL FROM tasks t WHERE t.task_id = queue.task_id))
           ) AS v(violation, holds)
     WHERE NOT holds;

-- Tasks and steps that no loop would ever wake. The view must be empty at any moment: every step in
-- play is claimable, or has a time of its next attempt, or has a worker, a lease and a deadline;
-- every task that is not final has a step in play. The engine's auditor (store/audit.rs) checks the
-- same conditions, a portion at a time; this view reads all tasks.
-- A paused step waits for the order of an operator.
CREATE VIEW liveness_violations AS
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

-- Fails if a statement changed another number of rows than the engine had locked: the transaction
-- then rolls back instead of committing half of a decision. In plain SQL a cast is the only way to
-- fail with a message. Postgres inlines it at no cost, whereas a PL/pgSQL call took a third of the
-- time of a one-row update.
CREATE FUNCTION expect_rows(what text, actual bigint, expected bigint) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN actual = expected THEN true
                ELSE (what || ': ' || actual || ' rows changed where ' || expected || ' were expected')::boolean END
$$;

-- Events ------------------------------------------------------------------------------------------

-- One row per transition, appended in the transaction of that transition. An ended attempt is one
-- event, so the history of attempts is a view. A reader keeps the snapshot of its last read and
-- takes the events that are visible now and were not then, ordered by seq: by seq alone it would
-- miss numbers that commit late, and xid alone is not the order of cause and effect.
--
-- The table is partitioned by the day of their task's submission, so that retention drops old history
-- instead of deleting it. The first 48 bits of a task's id are that time, so one partition contains
-- all events of a task, and a look-up finds it by the id alone. Events without a task, and events
-- without a matching partition, go to events_default.
-- A key of it would have to contain the partition key; the identity keeps seq unique.
CREATE TABLE events (
    xid             xid8 NOT NULL DEFAULT pg_current_xact_id(),
    seq             bigint GENERATED ALWAYS AS IDENTITY,
    at              timestamptz NOT NULL,
    type            event_type NOT NULL,
    template_id     int,
    task_id         uuid,
    step            smallint,
    attempt         int,
    worker_id       uuid,
    outcome         attempt_outcome,              -- set when the event ends an attempt
    charged         boolean,
    lease           bigint,
    ready_at        timestamptz,
    started_at      timestamptz,
    next_attempt_at timestamptz,
    retry_after     interval,
    error_code      text,
    error_message   text,
    error_context   text,
    -- Set for an event about a circuit; the service of a step follows from its template.
    service_id      int,
    -- Reason of an operator, or the policy of a circuit as JSON.
    detail          text,
    actor           text                          -- who ordered it
) PARTITION BY RANGE (task_id);

CREATE TABLE events_default (LIKE events INCLUDING DEFAULTS);

CREATE INDEX events_log ON events (xid, seq);
CREATE INDEX events_attempts ON events (task_id) WHERE outcome IS NOT NULL;
CREATE TRIGGER events_append_only BEFORE UPDATE ON events
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
ALTER TABLE events ATTACH PARTITION events_default DEFAULT;

CREATE VIEW attempts AS
    SELECT task_id, step, attempt, outcome, charged, worker_id, lease, ready_at, started_at, at AS ended_at,
           next_attempt_at, retry_after, error_code, error_message, error_context
      FROM events
     WHERE outcome IS NOT NULL AND attempt > 0;

-- The least possible id of a task that is submitted at this time or later.
CREATE FUNCTION first_task_id(at timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- The name of a partition contains its days: events_20260131_20260201 has the tasks submitted on
-- the 31st.
CREATE VIEW event_partitions AS
    SELECT c.relname::text AS name, to_date(split_part(c.relname, '_', 2), 'YYYYMMDD')::timestamp AT TIME ZONE 'UTC' AS begins,
           to_date(split_part(c.relname, '_', 3), 'YYYYMMDD')::timestamp AT TIME ZONE 'UTC' AS ends
      FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
     WHERE i.inhparent = 'events'::regclass AND c.relname ~ '^events_\d{8}_\d{8}$';

-- Creates partitions of `width` days up to `ahead` days from today (UTC), and returns their number.
-- Each is created as a table and then attached, which takes no lock that the insert of a task's
-- event would wait for. A day of which events_default already has rows stays there.
CREATE FUNCTION prepare_event_partitions(width int, ahead int) RETURNS int LANGUAGE plpgsql AS $$
DECLARE
    today timestamptz := date_trunc('day', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
    begins timestamptz := greatest(today, (SELECT max(p.ends) FROM event_partitions p));
    ends   timestamptz;
    name   text;
    made   int := 0;
BEGIN
    WHILE begins < today + make_interval(days => ahead) LOOP
        ends := begins + make_interval(hours => 24 * width);
        IF EXISTS (SELECT FROM events_default WHERE task_id >= first_task_id(begins) AND task_id < first_task_id(ends)) THEN
            begins := begins + interval '24 hours';
            CONTINUE;
        END IF;
        name := format('events_%s_%s', to_char(begins AT TIME ZONE 'UTC', 'YYYYMMDD'),
                       to_char(ends AT TIME ZONE 'UTC', 'YYYYMMDD'));
        EXECUTE format('CREATE TABLE %I (LIKE events INCLUDING DEFAULTS)', name);
        EXECUTE format('ALTER TABLE events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       name, first_task_id(begins), first_task_id(ends));
        begins := ends;
        made := made + 1;
    END LOOP;
    RETURN made;
END $$;

SELECT prepare_event_partitions(1, 3);

-- Snapshots taken while the log grew. A reader far behind advances from one to the next, a few
-- thousand events each: the order of cause and effect is by seq within the events between two
-- snapshots, and the reader must sort these.
CREATE TABLE event_marks (
    -- The `xmax` of the snapshot; grows from one to the next.
    end_xid  xid8 PRIMARY KEY,
    snapshot pg_snapshot NOT NULL,
    seq      bigint NOT NULL,                     -- approximately the last seq taken at that time
    at       timestamptz NOT NULL DEFAULT now()
);

-- The horizon of retention; one row. Every removed event has an xid and a seq below these.
CREATE TABLE event_horizon (
    only_row   boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    generation bigint NOT NULL DEFAULT 0,         -- number of removals
    xid        xid8 NOT NULL DEFAULT '0',
    seq        bigint NOT NULL DEFAULT 0,
    -- When a server last began to remove old rows.
    pruned_at  timestamptz NOT NULL DEFAULT '-infinity'
);
INSERT INTO event_horizon DEFAULT VALUES;

-- Processes ---------------------------------------------------------------------------------------

-- One row per connection of a worker. It contains the one lease of all steps that the connection
-- has, so a heartbeat updates one row, however many steps run.
CREATE TABLE workers (
    worker_id            uuid PRIMARY KEY,
    server_id            uuid NOT NULL,
    name                 text NOT NULL,
    build_id             text NOT NULL,
    namespaces           text[] NOT NULL,         -- empty: all
    handlers             text[] NOT NULL,
    max_concurrent_steps int NOT NULL CHECK (max_concurrent_steps > 0),
    labels               text NOT NULL,           -- JSON object
    connected_at         timestamptz NOT NULL,
    lease_expires_at     timestamptz NOT NULL,
    draining             boolean NOT NULL DEFAULT false,
    ended_at             timestamptz,             -- when its steps were taken over or released
    superseded           boolean NOT NULL DEFAULT false, -- ended as its worker registered again
    max_assignment_bytes int NOT NULL DEFAULT 4194304 -- largest assignment that it accepts
) WITH (fillfactor = 50);

CREATE INDEX workers_live ON workers (worker_id) WHERE ended_at IS NULL;

CREATE TABLE servers (
    server_id  uuid PRIMARY KEY,
    address    text NOT NULL,
    build_id   text NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at    timestamptz NOT NULL,
    -- Number of subscriptions to events; other servers notify only servers with some.
    subscribers int NOT NULL DEFAULT 0
);
