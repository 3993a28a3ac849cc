-- The size of an assignment is known before its claim, and a server validates its cached settings
-- of a task against the task's revision.

ALTER TABLE tasks
    -- Bound on context, annotations, settings and all results; NULL: unknown.
    ADD COLUMN documents_bytes int,
    -- Raised with each change of settings, annotations or priority.
    ADD COLUMN revision        int NOT NULL DEFAULT 0;

-- NULL in nearly every row, and thus without storage.
ALTER TABLE queue
    -- Upper bound; NULL: below the limit of every worker.
    ADD COLUMN assignment_bytes int,
    -- Revision of the task when the step came into play; NULL: 0.
    ADD COLUMN revision         int;

UPDATE queue q SET assignment_bytes = b.bytes
  FROM (SELECT t.task_id,
               least(65536 + octet_length(t.context) + octet_length(t.annotations) + coalesce(octet_length(t.settings), 0)
                     + coalesce((SELECT sum(octet_length(s.result)) FROM steps s WHERE s.task_id = t.task_id), 0),
                     2147483647)::int AS bytes
          FROM tasks t WHERE t.ended_at IS NULL) AS b
 WHERE b.task_id = q.task_id AND b.bytes > 131072;

-- The steps whose assignment some workers cannot accept.
CREATE INDEX queue_large ON queue (task_id, step) WHERE assignment_bytes IS NOT NULL;

-- The largest assignment that the worker accepts, in bytes.
ALTER TABLE workers ADD COLUMN max_assignment_bytes int NOT NULL DEFAULT 4194304;
