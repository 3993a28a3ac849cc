//! Appends events to the log.

use std::time::SystemTime;

use uuid::Uuid;

use super::EndedAttempt;
use crate::{
    domain::{
        attempt::{Failure, OutcomeKind},
        event::EventType,
    },
    store::pipeline::encode::{code, columns, context, message},
};

/// One row of the event log.
#[derive(Clone, Debug)]
pub struct Event {
    pub kind: EventType,
    pub template_id: Option<i32>,
    pub task_id: Option<Uuid>,
    pub step: Option<i16>,
    pub attempt: Option<i32>,
    pub worker_id: Option<Uuid>,
    pub outcome: Option<OutcomeKind>,
    pub charged: Option<bool>,
    pub lease: Option<i64>,
    pub ready_at: Option<SystemTime>,
    pub started_at: Option<SystemTime>,
    pub failure: Option<Failure>,
    /// The actor of the order, and the reason.
    pub ordered: Option<(String, String)>,
}

impl Event {
    /// An event about a task as a whole.
    pub fn of_task(kind: EventType, template_id: i32, task_id: Uuid) -> Self {
        Self {
            kind,
            template_id: Some(template_id),
            task_id: Some(task_id),
            step: None,
            attempt: None,
            worker_id: None,
            outcome: None,
            charged: None,
            lease: None,
            ready_at: None,
            started_at: None,
            failure: None,
            ordered: None,
        }
    }

    /// An event that ends an attempt.
    pub fn of_attempt(kind: EventType, attempt: &EndedAttempt) -> Self {
        Self {
            step: Some(attempt.step),
            attempt: Some(attempt.attempt),
            worker_id: Some(attempt.worker_id),
            outcome: Some(attempt.outcome),
            charged: Some(attempt.charged),
            lease: Some(attempt.lease),
            ready_at: Some(attempt.ready_at),
            started_at: Some(attempt.started_at),
            failure: attempt.failure.clone(),
            ..Self::of_task(kind, attempt.template_id, attempt.task_id)
        }
    }
}

pub(in crate::store) const INSERT_EVENTS: &str = "
    INSERT INTO events (at, type, template_id, task_id, step, attempt, worker_id, outcome, charged, lease, ready_at,
                        started_at, error_code, error_message, error_context, actor, detail)
    SELECT c.now, u.type::event_type, u.template_id, u.task_id, u.step, u.attempt, u.worker_id,
           u.outcome::attempt_outcome, u.charged, u.lease,
           CASE WHEN u.type = 'step.started' THEN c.now ELSE u.ready_at END, u.started_at, u.code, u.message, u.context,
           u.actor, u.detail
      FROM unnest($1::text[], $2::int4[], $3::uuid[], $4::int2[], $5::int4[], $6::uuid[], $7::text[], $8::bool[],
                  $9::int8[], $10::timestamptz[], $11::timestamptz[], $12::text[], $13::text[], $14::text[], $15::text[],
                  $16::text[])
           AS u(type, template_id, task_id, step, attempt, worker_id, outcome, charged, lease, ready_at, started_at, code,
                message, context, actor, detail),
           (SELECT coalesce($17::timestamptz, now()) AS now) AS c";

columns!(Events from e: Event {
    kind: &'a str = e.kind.as_str(),
    template_id: Option<i32> = e.template_id,
    task_id: Option<Uuid> = e.task_id,
    step: Option<i16> = e.step,
    attempt: Option<i32> = e.attempt,
    worker_id: Option<Uuid> = e.worker_id,
    outcome: Option<&'a str> = e.outcome.map(OutcomeKind::as_str),
    charged: Option<bool> = e.charged,
    lease: Option<i64> = e.lease,
    ready_at: Option<SystemTime> = e.ready_at,
    started_at: Option<SystemTime> = e.started_at,
    code: Option<&'a str> = code(e.failure.as_ref()),
    message: Option<&'a str> = message(e.failure.as_ref()),
    context: Option<&'a str> = context(e.failure.as_ref()),
    actor: Option<&'a str> = e.ordered.as_ref().map(|(by, _)| by.as_str()),
    detail: Option<&'a str> = e.ordered.as_ref().map(|(_, reason)| reason.as_str()),
});
