//! Reopens failed steps.

use uuid::Uuid;

use crate::store::pipeline::encode::columns;

/// Deletes the ends of failed steps; their attempts stay in the history.
pub(in crate::store) const REOPEN: &str = "
    WITH gone AS (
        DELETE FROM steps s
         USING (SELECT s.tid
                  FROM unnest($1::uuid[], $2::int2[]) AS u(task_id, step)
                 CROSS JOIN LATERAL (
                       SELECT ctid AS tid FROM steps
                        WHERE task_id = u.task_id AND step = u.step AND state = 'error' LIMIT 1) AS s
                 LIMIT cardinality($1)) AS u
         WHERE s.ctid = u.tid
        RETURNING 1)
    SELECT expect_rows('steps tried again', count(*), cardinality($1::uuid[])) FROM gone";

columns!(ReopenedSteps from reopened: (Uuid, i16) {
    task_id: Uuid = reopened.0,
    step: i16 = reopened.1,
});
