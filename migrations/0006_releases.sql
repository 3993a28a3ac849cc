-- Attempts that draining workers leave, and late answers.

ALTER TYPE attempt_outcome ADD VALUE 'drained';

-- Number of uncharged attempts at the last retry by an operator; they no longer count towards the
-- limit on free attempts.
ALTER TABLE queue ADD COLUMN forgiven int NOT NULL DEFAULT 0;

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
