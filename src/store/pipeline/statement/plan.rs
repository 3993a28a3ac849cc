//! Stores the adjustments of planners.

use uuid::Uuid;

use crate::store::pipeline::encode::columns;

/// A task's settings, annotations and priority after its planner's adjustments.
#[derive(Clone, Debug)]
pub struct Planned {
    pub task_id: Uuid,
    pub settings: String,
    pub annotations: String,
    pub priority: i16,
}

/// Stores the adjustments by planners.
pub(in crate::store) const PLAN: &str = "
    UPDATE tasks t SET settings = u.settings, annotations = u.annotations, priority = u.priority,
                       revision = t.revision + 1
      FROM (SELECT u.*, t.tid
              FROM unnest($1::uuid[], $2::text[], $3::text[], $4::int2[]) AS u(task_id, settings, annotations, priority)
             CROSS JOIN LATERAL (SELECT ctid AS tid FROM tasks WHERE task_id = u.task_id LIMIT 1) AS t
             LIMIT cardinality($1)) AS u
     WHERE t.ctid = u.tid";

columns!(Plans from planned: Planned {
    task_id: Uuid = planned.task_id,
    settings: &'a str = &planned.settings,
    annotations: &'a str = &planned.annotations,
    priority: i16 = planned.priority,
});
