-- What workers leave when they drain, and answers that come too late.

ALTER TYPE attempt_outcome ADD VALUE 'drained';

-- Attempts that had cost nothing when an operator had the step tried again: they do not count as free any more.
ALTER TABLE queue ADD COLUMN forgiven int NOT NULL DEFAULT 0;

-- The first answer to each attempt that had ended without it; it had no effect. Rare, and gone with its task.
CREATE TABLE late_results (
    task_id uuid NOT NULL,
    step    smallint NOT NULL,
    lease   bigint NOT NULL,
    at      timestamptz NOT NULL,
    outcome attempt_outcome NOT NULL,             -- how the attempt went, by the answer
    PRIMARY KEY (task_id, step, lease)
);
