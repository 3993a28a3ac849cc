-- Which services have changed: a server reads those alone, whatever their number.

-- The transaction that last changed what decides who passes. It is the transaction and not a time, since one that began early may commit
-- late: a reader goes on from the oldest one that was running when it read, and so misses none.
ALTER TABLE services ADD COLUMN changed_in xid8 NOT NULL DEFAULT pg_current_xact_id();

CREATE INDEX services_changed ON services (changed_in);

CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed_in := pg_current_xact_id();
    RETURN NEW;
END $$;

-- Tokens and probes that are handed out are not among them: they are written often, and a copy of the row does not have them.
CREATE TRIGGER services_changed BEFORE UPDATE OF gate, state, since, until, openings, forced, forced_until, paused_until ON services
    FOR EACH ROW EXECUTE FUNCTION note_change();
