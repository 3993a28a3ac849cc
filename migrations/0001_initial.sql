-- All tables live in one schema; nothing here names it, so search_path alone decides which cell a server works on.
-- The hot tables (tasks, steps, queue, events) have no foreign keys and no CHECK constraints. A trigger per row would cost
-- more than the row, and Postgres parses a constraint anew for every statement, which made a one-row update twice as dear
-- (docs/performance.md). What they would have said is in the view row_violations; it must always be empty.

CREATE TYPE task_state AS ENUM ('pending', 'in_progress', 'complete', 'error', 'cancelled');

CREATE TYPE step_state AS ENUM (
    'pending', 'ready', 'in_progress', 'waiting_for_retry', 'complete', 'error', 'cancelled');

CREATE TYPE attempt_outcome AS ENUM (
    'succeeded', 'retryable_error', 'permanent_error', 'timed_out', 'worker_lost', 'released', 'undelivered', 'cancelled');

CREATE TYPE event_type AS ENUM (
    'task.submitted', 'task.started', 'task.completed', 'task.failed', 'task.cancelled', 'task.repaired',
    'step.started', 'step.completed', 'step.failed', 'step.retrying', 'step.cancelled',
    'worker.connected', 'worker.lost',
    'circuit.opened', 'circuit.half_opened', 'circuit.closed', 'circuit.forced', 'circuit.released', 'circuit.reset',
    'circuit.paused', 'circuit.policy_changed');

CREATE TYPE circuit_state AS ENUM ('closed', 'open', 'half_open');

-- Definitions -----------------------------------------------------------------------------------------------------

CREATE TABLE templates (
    template_id   int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    namespace     text NOT NULL,
    task_name     text NOT NULL,
    version       text NOT NULL,
    yaml          text NOT NULL,
    registered_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (namespace, task_name, version)
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% rows never change: register a new version instead', TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER templates_immutable BEFORE UPDATE OR DELETE ON templates
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- What the steps of a namespace call: the unit that circuits, pauses and limits protect. The row is the gate that claims
-- look at, and is written when something changes about it, never per step.
CREATE TABLE services (
    service_id    int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    namespace     text NOT NULL,
    service       text NOT NULL,
    gate          bigint NOT NULL DEFAULT 0,      -- another number whenever it may be decided otherwise who passes
    state         circuit_state NOT NULL DEFAULT 'closed',
    since         timestamptz NOT NULL DEFAULT now(),
    until         timestamptz,                    -- open: probed from then on; half-open: probed anew; closed: ramped up
    openings      int NOT NULL DEFAULT 0,         -- in a row, without a recovery in between
    probes_left   int NOT NULL DEFAULT 0,         -- half-open: not handed to a server yet
    probes_passed int NOT NULL DEFAULT 0,         -- half-open: succeeded
    forced        circuit_state,                  -- open or closed, by an operator
    forced_by     text,
    forced_reason text,
    forced_until  timestamptz,
    paused_until  timestamptz,                    -- asked for by the service itself
    tokens        double precision,               -- of the rate limit, as of refilled_at
    refilled_at   timestamptz,
    UNIQUE (namespace, service)
) WITH (fillfactor = 50);

-- What operators set, as JSON with the fields of domain::policy. An empty service is the whole namespace, an empty namespace
-- the whole cell; the narrower one decides, field by field.
CREATE TABLE service_policies (
    namespace  text NOT NULL,
    service    text NOT NULL,
    policy     text NOT NULL,
    PRIMARY KEY (namespace, service)
);

-- The rolling window of a circuit: how attempts ended, by slices of time.
CREATE TABLE service_health (
    service_id int NOT NULL,
    slice      bigint NOT NULL,                   -- number of the slice since the epoch, each a tenth of the window long
    calls      int NOT NULL,
    failures   int NOT NULL,
    PRIMARY KEY (service_id, slice)
) WITH (fillfactor = 50);

-- What a server may let through to a service that has a limit, or is being probed: together never more than the limit. The
-- running attempts of a share carry its number, so that it is known how much of it is used, also when its server is gone.
CREATE TABLE permits (
    permit_id  int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    service_id int NOT NULL,
    server_id  uuid NOT NULL,
    count      int NOT NULL,
    wanted     int NOT NULL,                      -- how many it could use
    term       bigint NOT NULL DEFAULT 0,         -- another number when somebody else changed the count
    seen_at    timestamptz NOT NULL,
    UNIQUE (service_id, server_id)
) WITH (fillfactor = 50);

-- A row per change of a circuit, kept for the history that operators read.
CREATE TABLE circuit_changes (
    change_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    service_id int NOT NULL,
    at         timestamptz NOT NULL,
    type       event_type NOT NULL,
    until      timestamptz,                       -- when it ends by itself, as it was known last
    calls      int,                               -- opened: what the window held
    failures   int,
    actor      text,
    detail     text                               -- a reason in words, or a policy as JSON
);

CREATE INDEX circuit_changes_of_service ON circuit_changes (service_id, at);

-- A lane is the stream of steps that share namespace, handler and service. Claims go lane by lane, so a lane that is
-- held back (no worker, a circuit, a limit) costs the others nothing, however many steps wait in it.
CREATE TABLE lanes (
    lane_id    int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    namespace  text NOT NULL,
    handler    text NOT NULL,
    service    text NOT NULL,
    service_id int NOT NULL REFERENCES services,
    UNIQUE (namespace, handler, service)
);

CREATE TABLE template_steps (
    template_id int NOT NULL REFERENCES templates,
    step        smallint NOT NULL,
    name        text NOT NULL,
    lane_id     int NOT NULL REFERENCES lanes,
    PRIMARY KEY (template_id, step)
);

CREATE TRIGGER template_steps_immutable BEFORE UPDATE OR DELETE ON template_steps
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- Runs ------------------------------------------------------------------------------------------------------------

CREATE TABLE tasks (
    task_id        uuid PRIMARY KEY,              -- version 7: sorts by age
    template_id    int NOT NULL,
    state          task_state NOT NULL,
    priority       smallint NOT NULL,             -- -100 to 100
    steps_total    smallint NOT NULL,
    steps_live     smallint NOT NULL,             -- how many rows the task has in queue
    steps_done     bytea NOT NULL,                -- bit i of byte i/8 is set when step i is complete
    failed_step    smallint,                      -- the step that failed for good first
    submitted_at   timestamptz NOT NULL,
    started_at     timestamptz,
    ended_at       timestamptz,
    cancelled_by   text,
    cancel_reason  text,
    correlation_id text NOT NULL,
    traceparent    text,
    annotations    text NOT NULL,                 -- JSON object
    context        text NOT NULL                  -- JSON object, the client's own bytes unless defaults were added
) WITH (fillfactor = 60);

-- None of these columns changes while a task runs well, so its updates stay heap-only (HOT).
--
-- The condition of the first two is always true. It keeps them away from statements that look up a task by its id and do
-- not say it: to a planner that has just seen the table empty, walking through one of these looks as good as the primary
-- key, and it stays with that plan when the table holds a million rows (docs/performance.md). Lists say it.
CREATE INDEX tasks_by_template ON tasks (template_id, task_id) WHERE steps_total > 0;
CREATE INDEX tasks_by_correlation ON tasks (correlation_id, task_id) WHERE steps_total > 0;
CREATE INDEX tasks_failed ON tasks (task_id) WHERE failed_step IS NOT NULL;
CREATE INDEX tasks_cancelled ON tasks (task_id) WHERE cancelled_by IS NOT NULL;

CREATE TABLE idempotency_keys (
    namespace text NOT NULL,
    key       text NOT NULL,
    task_id   uuid NOT NULL,
    digest    bytea NOT NULL,                     -- SHA-256 of what was submitted
    PRIMARY KEY (namespace, key)
);

-- One row per step that has ended, written once. Before that, a step that is in play (ready, in progress, waiting for a
-- retry) has a row in queue, and one that waits for its parents has none at all: it is in the template. The view step_status
-- puts the three together.
CREATE TABLE steps (
    task_id       uuid NOT NULL,
    step          smallint NOT NULL,              -- position in the template
    state         step_state NOT NULL,            -- complete, error or cancelled
    attempt       int NOT NULL,                   -- number of the last attempt
    charged       smallint NOT NULL,              -- attempts that counted against the retry limit
    result        text,                           -- JSON
    error_code    text,
    error_message text,
    error_context text,                           -- JSON object
    ready_at      timestamptz NOT NULL,
    started_at    timestamptz,                    -- of the last attempt
    ended_at      timestamptz NOT NULL,
    PRIMARY KEY (task_id, step)
);

-- One narrow row per step in play. Only this table is scanned for work, and it holds live steps alone, so its size
-- follows the work in hand and never the history.
CREATE TABLE queue (
    task_id         uuid NOT NULL,
    step            smallint NOT NULL,
    template_id     int NOT NULL,
    lane_id         int NOT NULL,
    priority        smallint NOT NULL,
    state           step_state NOT NULL,          -- ready, in_progress or waiting_for_retry
    due             boolean NOT NULL,             -- a claim may take it now
    attempt         int NOT NULL DEFAULT 0,       -- number of the running or last attempt
    charged         smallint NOT NULL DEFAULT 0,
    lost            smallint NOT NULL DEFAULT 0,  -- attempts that ended with their worker
    ready_at        timestamptz NOT NULL,         -- since when it has been claimable, but for its back-off
    next_attempt_at timestamptz,
    lease           bigint,                       -- random; proves the right to the running attempt
    worker_id       uuid,
    started_at      timestamptz,
    deadline_at     timestamptz,
    permit_id       int,                          -- the share of a limited service that the attempt uses
    PRIMARY KEY (task_id, step)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE INDEX queue_claim ON queue (lane_id, priority DESC, task_id, step) WHERE due;
CREATE INDEX queue_worker ON queue (worker_id) WHERE worker_id IS NOT NULL;
CREATE INDEX queue_retry ON queue (next_attempt_at) WHERE next_attempt_at IS NOT NULL AND NOT due;

-- A step of a cancelled task that never came into play is cancelled with it.
CREATE VIEW step_status AS
    SELECT t.task_id, d.step, d.name, l.namespace, l.handler, l.service,
           coalesce(q.state, s.state, CASE WHEN t.state = 'cancelled' THEN 'cancelled' ELSE 'pending' END::step_state) AS state,
           coalesce(q.attempt, s.attempt, 0) AS attempt,
           coalesce(q.charged, s.charged, 0::smallint) AS charged,
           coalesce(q.ready_at, s.ready_at) AS ready_at,
           coalesce(q.started_at, s.started_at) AS started_at,
           coalesce(s.ended_at, CASE WHEN t.state = 'cancelled' THEN t.ended_at END) AS ended_at,
           q.next_attempt_at, q.deadline_at, q.worker_id,
           s.result, s.error_code, s.error_message, s.error_context
      FROM tasks t
      JOIN template_steps d ON d.template_id = t.template_id
      JOIN lanes l ON l.lane_id = d.lane_id
      LEFT JOIN steps s ON s.task_id = t.task_id AND s.step = d.step
      LEFT JOIN queue q ON q.task_id = t.task_id AND q.step = d.step;

-- Rows that contradict themselves. None may ever be here; tests look after everything they do.
CREATE VIEW row_violations AS
    SELECT 'task' AS kind, task_id, NULL::smallint AS step, v.violation
      FROM tasks, LATERAL (VALUES
           ('priority is out of range', priority BETWEEN -100 AND 100),
           ('it has no steps', steps_total > 0),
           ('it has started, or not, against its state',
            state = 'cancelled' OR (state = 'pending') = (started_at IS NULL)),
           ('it has ended, or not, against its state',
            (state IN ('complete', 'error', 'cancelled')) = (ended_at IS NOT NULL)),
           ('it has ended with steps in play, or has none and has not', (ended_at IS NULL) = (steps_live > 0)),
           ('it failed without a failed step', state <> 'error' OR failed_step IS NOT NULL),
           ('it was cancelled by nobody, or is not cancelled', (state = 'cancelled') = (cancelled_by IS NOT NULL))
           ) AS v(violation, holds)
     WHERE NOT holds
    UNION ALL
    SELECT 'step', task_id, step, v.violation
      FROM steps, LATERAL (VALUES
           ('its state is not final', state IN ('complete', 'error', 'cancelled')),
           ('it has a result, or none, against its state', (state = 'complete') = (result IS NOT NULL)),
           ('it has an error, or none, against its state', (state = 'error') = (error_message IS NOT NULL)),
           ('it ended without a start', state = 'cancelled' OR started_at IS NOT NULL)
           ) AS v(violation, holds)
     WHERE NOT holds
    UNION ALL
    SELECT 'queue', task_id, step, v.violation
      FROM queue, LATERAL (VALUES
           ('its state is not one of play', state IN ('ready', 'in_progress', 'waiting_for_retry')),
           ('it has a lease, or part of one, against its state',
            num_nonnulls(lease, worker_id, started_at, deadline_at) = CASE WHEN state = 'in_progress' THEN 4 ELSE 0 END),
           ('it has a time of the next attempt, or none, against its state',
            (state = 'waiting_for_retry') = (next_attempt_at IS NOT NULL)),
           ('nothing wakes it, or it is claimable against its state',
            state = 'waiting_for_retry' OR due = (state = 'ready'))
           ) AS v(violation, holds)
     WHERE NOT holds;

-- What nothing would ever wake: none may be here at any moment. Every step in play is claimable, or has a time of its next
-- attempt, or has a worker, a lease and a deadline; every task that is not final has a step in play. The engine's auditor
-- (store/audit.rs) looks for the same, a portion at a time: this walks through all tasks.
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
      FROM queue q
     WHERE NOT CASE q.state
               WHEN 'ready' THEN q.due
               WHEN 'in_progress' THEN num_nonnulls(q.lease, q.worker_id, q.started_at, q.deadline_at) = 4
               WHEN 'waiting_for_retry' THEN q.due OR q.next_attempt_at IS NOT NULL
               ELSE false END;

-- History ---------------------------------------------------------------------------------------------------------

-- One row per transition, appended in the transaction that makes it. An ended attempt is one event, so the history of
-- attempts is a view. A reader keeps the snapshot it last read under and takes what is visible now and was not then, by seq: a
-- plain sequence would let it step over numbers that commit late, and xid alone is not the order of cause and effect.
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
    service_id      int,                          -- of an event about a circuit; those of steps have their template's
    detail          text,
    PRIMARY KEY (xid, seq)
);

CREATE INDEX events_attempts ON events (task_id) WHERE outcome IS NOT NULL;

CREATE TRIGGER events_append_only BEFORE UPDATE ON events
    FOR EACH ROW EXECUTE FUNCTION refuse_change();

CREATE VIEW attempts AS
    SELECT task_id, step, attempt, outcome, charged, worker_id, lease, ready_at, started_at, at AS ended_at,
           next_attempt_at, retry_after, error_code, error_message, error_context
      FROM events
     WHERE outcome IS NOT NULL AND attempt > 0;

-- Processes -------------------------------------------------------------------------------------------------------

-- One row per connection of a worker. The lease is here, once, and covers every step that the connection holds: a
-- heartbeat costs one row, however many steps run.
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
    ended_at             timestamptz,             -- its steps have been taken over or given back
    superseded           boolean NOT NULL DEFAULT false -- it ended because its worker registered again
) WITH (fillfactor = 50);

CREATE INDEX workers_live ON workers (worker_id) WHERE ended_at IS NULL;

CREATE TABLE servers (
    server_id  uuid PRIMARY KEY,
    address    text NOT NULL,
    build_id   text NOT NULL,
    started_at timestamptz NOT NULL,
    seen_at    timestamptz NOT NULL
);

-- Fails when a statement touched another number of rows than the engine had locked: the transaction then rolls back
-- instead of committing half of a decision. In plain SQL a cast is the only way to fail with words; it is inlined and costs
-- nothing, where a call of PL/pgSQL took a third of a one-row update.
CREATE FUNCTION expect_rows(what text, actual bigint, expected bigint) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN actual = expected THEN true
                ELSE (what || ': ' || actual || ' rows changed where ' || expected || ' were expected')::boolean END
$$;
