-- Marks changed services, so that a server reads only these, however many services exist.

-- The last transaction that changed the admission. It is a transaction id instead of a time, since
-- a transaction that began early may commit late: the next read starts from the oldest transaction
-- that was running at the read before, and so misses no change.
ALTER TABLE services ADD COLUMN changed_in xid8 NOT NULL DEFAULT pg_current_xact_id();

CREATE INDEX services_changed ON services (changed_in);

CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed_in := pg_current_xact_id();
    RETURN NEW;
END $$;

-- The columns of tokens and probes are left out: they change often, and servers do not cache them.
CREATE TRIGGER services_changed BEFORE UPDATE OF gate, state, since, until, openings, forced, forced_until, paused_until ON services
    FOR EACH ROW EXECUTE FUNCTION note_change();
