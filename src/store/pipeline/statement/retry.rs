//! Puts failed attempts back with the time of their retry.

use std::time::SystemTime;

use tasker_template::Backoff;
use uuid::Uuid;

use super::EndedAttempt;
use crate::store::pipeline::encode::{code, columns, context, message};

/// A failed attempt that will be retried. Postgres computes the time of the retry.
#[derive(Clone, Debug)]
pub struct Retry {
    pub attempt: EndedAttempt,
    pub backoff: Backoff,
}

/// delay = min(max, base * multiplier ^ charged failures so far), less a random share of it, but at
/// least the `retry_after` of the service. All by the database's clock.
pub(in crate::store) const RETRY: &str = "
    WITH u AS (
        SELECT u.*, q.tid, q.charged
          FROM unnest($1::uuid[], $2::int2[], $3::int8[], $4::text[], $5::bool[], $6::float8[], $7::float8[], $8::float8[],
                      $9::float8[], $10::float8[], $11::text[], $12::text[], $13::text[], $14::uuid[], $15::timestamptz[],
                      $16::timestamptz[])
               AS u(task_id, step, lease, outcome, is_charged, base, multiplier, max, jitter, retry_after, code, message,
                    context, worker_id, was_ready_at, was_started_at)
         CROSS JOIN LATERAL (
               SELECT ctid AS tid, charged FROM queue
                WHERE task_id = u.task_id AND step = u.step AND lease = u.lease LIMIT 1) AS q
         LIMIT cardinality($1)),
    waiting AS (
        UPDATE queue q
           SET state = 'waiting_for_retry', due = false, charged = q.charged + u.is_charged::int::int2,
               lost = q.lost + (u.outcome = 'undelivered')::int::int2, lease = NULL,
               worker_id = NULL, started_at = NULL, deadline_at = NULL, share_id = NULL, ready_at = d.at,
               next_attempt_at = d.at
          FROM u
         CROSS JOIN LATERAL (
               SELECT $17::timestamptz + make_interval(secs => greatest(
                          least(u.max, u.base * u.multiplier ^ u.charged) * (1 - u.jitter * random()),
                          coalesce(u.retry_after, 0))) AS at) d
         WHERE q.ctid = u.tid
        RETURNING q.task_id, q.step, q.template_id, q.attempt, q.next_attempt_at, u.lease, u.outcome, u.is_charged,
                  u.retry_after, u.code, u.message, u.context, u.worker_id, u.was_ready_at, u.was_started_at),
    log AS (
        INSERT INTO events (at, type, template_id, task_id, step, attempt, worker_id, outcome, charged, lease, ready_at,
                            started_at, next_attempt_at, retry_after, error_code, error_message, error_context)
        SELECT $17::timestamptz, 'step.retrying', template_id, task_id, step, attempt, worker_id, outcome::attempt_outcome, is_charged,
               lease, was_ready_at, was_started_at, next_attempt_at, make_interval(secs => retry_after), code, message,
               context
          FROM waiting)
    SELECT expect_rows('retries in queue', count(*), $18),
           extract(epoch FROM min(next_attempt_at) - $17::timestamptz)::float8
      FROM waiting";

columns!(Retries from r: Retry {
    task_id: Uuid = r.attempt.task_id,
    step: i16 = r.attempt.step,
    lease: i64 = r.attempt.lease,
    outcome: &'a str = r.attempt.outcome.as_str(),
    charged: bool = r.attempt.charged,
    base: f64 = r.backoff.base_seconds,
    multiplier: f64 = r.backoff.multiplier,
    max: f64 = r.backoff.max_seconds,
    jitter: f64 = r.backoff.jitter,
    retry_after: Option<f64> = r.attempt.retry_after.map(|delay| delay.as_secs_f64()),
    code: Option<&'a str> = code(r.attempt.failure.as_ref()),
    message: Option<&'a str> = message(r.attempt.failure.as_ref()),
    context: Option<&'a str> = context(r.attempt.failure.as_ref()),
    worker_id: Uuid = r.attempt.worker_id,
    ready_at: SystemTime = r.attempt.ready_at,
    started_at: SystemTime = r.attempt.started_at,
});
