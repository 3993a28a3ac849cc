//! Inserts new tasks.

use std::time::SystemTime;

use uuid::Uuid;

use crate::{domain::task::TaskState, store::pipeline::encode::columns};

/// A task to insert, with its steps.
#[derive(Clone, Debug)]
pub struct NewTask {
    pub task_id: Uuid,
    pub template_id: i32,
    /// `Pending`, or `InProgress` when the same transaction claims or skips a root step, or
    /// `Complete` when all steps are skipped.
    pub state: TaskState,
    pub priority: i16,
    pub steps_total: i16,
    pub steps_live: i16,
    pub steps_done: Vec<u8>,
    /// A root whose condition could not be evaluated.
    pub failed_step: Option<i16>,
    pub correlation_id: String,
    pub traceparent: Option<String>,
    pub annotations: String,
    pub context: String,
    /// The overrides as JSON.
    pub settings: Option<String>,
    pub not_before: Option<SystemTime>,
    pub expires_at: Option<SystemTime>,
    /// Size of its documents.
    pub bytes: i32,
}

impl NewTask {
    /// Whether its deadline has to be watched.
    pub fn has_deadline(&self) -> bool {
        self.expires_at.is_some() && !self.state.is_final()
    }
}

pub(in crate::store) const INSERT_TASKS: &str = "
    INSERT INTO tasks (task_id, template_id, state, priority, steps_total, steps_live, steps_done, submitted_at,
                       started_at, ended_at, correlation_id, traceparent, annotations, context, settings, not_before,
                       expires_at, failed_step, documents_bytes)
    SELECT u.id, u.template_id, u.state::task_state, u.priority, u.total, u.live, u.done, $17::timestamptz,
           CASE WHEN u.state <> 'pending' THEN $17::timestamptz END, CASE WHEN u.live = 0 THEN $17::timestamptz END,
           u.correlation_id, u.traceparent, u.annotations, u.context, u.settings, u.not_before, u.expires_at,
           u.failed_step, u.bytes
      FROM unnest($1::uuid[], $2::int4[], $3::text[], $4::int2[], $5::int2[], $6::int2[], $7::bytea[], $8::text[],
                  $9::text[], $10::text[], $11::text[], $12::text[], $13::timestamptz[], $14::timestamptz[],
                  $15::int2[], $16::int4[])
           AS u(id, template_id, state, priority, total, live, done, correlation_id, traceparent, annotations, context,
                settings, not_before, expires_at, failed_step, bytes)";

columns!(NewTasks from t: NewTask {
    task_id: Uuid = t.task_id,
    template_id: i32 = t.template_id,
    state: &'a str = t.state.as_str(),
    priority: i16 = t.priority,
    total: i16 = t.steps_total,
    live: i16 = t.steps_live,
    done: &'a [u8] = &t.steps_done,
    correlation_id: &'a str = &t.correlation_id,
    traceparent: Option<&'a str> = t.traceparent.as_deref(),
    annotations: &'a str = &t.annotations,
    context: &'a str = &t.context,
    settings: Option<&'a str> = t.settings.as_deref(),
    not_before: Option<SystemTime> = t.not_before,
    expires_at: Option<SystemTime> = t.expires_at,
    failed_step: Option<i16> = t.failed_step,
    bytes: i32 = t.bytes,
});
