-- Partitions events by the day of their task's submission, so that retention drops old history
-- instead of deleting it. The first 48 bits of a task's id are that time, so one partition contains
-- all events of a task, and a look-up finds it by the id alone. Events without a task, and events
-- without a matching partition, go to events_default.
--
-- (xid, seq) is no longer a key, since a key of a partitioned table must contain the partition key;
-- the identity keeps seq unique.

DROP VIEW attempts;
DROP TRIGGER events_append_only ON events;
DROP INDEX events_attempts;
ALTER TABLE events DROP CONSTRAINT events_pkey;
ALTER TABLE events RENAME TO events_default;

DO $$
DECLARE
    next bigint := (SELECT last_value + 1 FROM events_seq_seq);
BEGIN
    ALTER TABLE events_default ALTER seq DROP IDENTITY;
    CREATE TABLE events (LIKE events_default INCLUDING DEFAULTS) PARTITION BY RANGE (task_id);
    ALTER TABLE events ALTER seq ADD GENERATED ALWAYS AS IDENTITY;
    EXECUTE format('ALTER TABLE events ALTER seq RESTART WITH %s', next);
END $$;

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

-- Number of a server's subscribers to events, so that other servers know which servers to notify.
ALTER TABLE servers ADD COLUMN subscribers int NOT NULL DEFAULT 0;
