//! Records why tasks ended as a whole.

use uuid::Uuid;

use crate::store::pipeline::encode::columns;

/// Why a task ended as a whole; all `None` when it is reopened.
#[derive(Clone, Debug)]
pub struct Mark {
    pub task_id: Uuid,
    pub resolved: Option<(String, String)>,
    pub error_code: Option<String>,
}

/// Sets why tasks ended as a whole.
pub(in crate::store) const MARK: &str = "
    UPDATE tasks t SET resolved_by = u.resolved_by, resolve_reason = u.reason, error_code = u.code
      FROM (SELECT u.*, t.tid
              FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) AS u(task_id, resolved_by, reason, code)
             CROSS JOIN LATERAL (SELECT ctid AS tid FROM tasks WHERE task_id = u.task_id LIMIT 1) AS t
             LIMIT cardinality($1)) AS u
     WHERE t.ctid = u.tid";

columns!(Marks from mark: Mark {
    task_id: Uuid = mark.task_id,
    by: Option<&'a str> = mark.resolved.as_ref().map(|(by, _)| by.as_str()),
    reason: Option<&'a str> = mark.resolved.as_ref().map(|(_, reason)| reason.as_str()),
    code: Option<&'a str> = mark.error_code.as_deref(),
});
