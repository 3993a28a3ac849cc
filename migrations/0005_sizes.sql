-- What an assignment weighs is known before a worker gets it, and what a server keeps of a task is held against the task's number.

ALTER TABLE tasks
    ADD COLUMN documents_bytes int,               -- at most: context, notes, settings and all results; NULL: not known
    ADD COLUMN revision        int NOT NULL DEFAULT 0; -- another number whenever settings, notes or priority change

-- NULL in nearly every row, which costs nothing.
ALTER TABLE queue
    ADD COLUMN assignment_bytes int,              -- at most; NULL: less than what every worker takes
    ADD COLUMN revision         int;              -- of the task, when the step came into play; NULL: 0

UPDATE queue q SET assignment_bytes = b.bytes
  FROM (SELECT t.task_id,
               least(65536 + octet_length(t.context) + octet_length(t.annotations) + coalesce(octet_length(t.settings), 0)
                     + coalesce((SELECT sum(octet_length(s.result)) FROM steps s WHERE s.task_id = t.task_id), 0),
                     2147483647)::int AS bytes
          FROM tasks t WHERE t.ended_at IS NULL) AS b
 WHERE b.task_id = q.task_id AND b.bytes > 131072;

-- The steps that not every worker takes.
CREATE INDEX queue_large ON queue (task_id, step) WHERE assignment_bytes IS NOT NULL;

-- The largest assignment that the worker takes.
ALTER TABLE workers ADD COLUMN max_assignment_bytes int NOT NULL DEFAULT 4194304;
