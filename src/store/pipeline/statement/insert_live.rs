//! Brings steps into play, and claims those of them that have a grant.

use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::Grant;
use crate::store::error::stale_admission;
use crate::store::pipeline::{encode::columns, statement::admission::check_admission};

/// A step that comes into play: a root of a new task, a step whose last parent has completed, or a
/// failed step that an operator retries.
#[derive(Clone, Debug)]
pub struct NewLive {
    pub task_id: Uuid,
    pub step: i16,
    pub template_id: i32,
    pub lane_id: i32,
    pub priority: i16,
    /// The earlier attempts of a step that an operator retries.
    pub past: Option<Past>,
    /// Time-out of an attempt, where it differs from the template's.
    pub timeout: Option<Duration>,
    /// The task's deadline.
    pub expires_at: Option<SystemTime>,
    pub not_before: Option<SystemTime>,
    /// Whether its task is paused.
    pub paused: bool,
    /// Upper bound on the size of its assignment; 0 where every worker accepts that size.
    pub bytes: i32,
    /// The task's revision.
    pub revision: i32,
    /// Set when the same transaction assigns it to a worker.
    pub grant: Option<Grant>,
}

impl NewLive {
    /// Whether it can be claimed at once.
    pub fn is_due(&self) -> bool {
        !self.paused && self.not_before.is_none()
    }

    /// Number of its next attempt.
    pub fn next_attempt(&self) -> i32 {
        self.past.map_or(0, |past| past.attempt) + 1
    }
}

/// The attempts of a step before it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    pub attempt: i32,
    /// Number of attempts that still count against the retry limit.
    pub charged: i16,
}

pub(in crate::store) const INSERT_LIVE: &str = concat!(
    "
    INSERT INTO queue (task_id, step, template_id, lane_id, priority, state, due, attempt, charged, ready_at,
                       next_attempt_at, lease, worker_id, started_at, deadline_at, share_id, timeout, expires_at, paused,
                       reopened, assignment_bytes, revision, forgiven)
    SELECT u.task_id, u.step, u.template_id, u.lane_id, u.priority,
           CASE WHEN u.lease IS NULL THEN 'ready' ELSE 'in_progress' END::step_state,
           u.lease IS NULL AND u.not_before IS NULL AND u.paused IS NULL,
           coalesce(u.attempt, 0) + (u.lease IS NOT NULL)::int, coalesce(u.charged, 0::int2), coalesce(u.not_before, c.now),
           u.not_before, u.lease, u.worker_id, CASE WHEN u.lease IS NOT NULL THEN c.now END,
           CASE WHEN u.lease IS NOT NULL THEN least(c.now + make_interval(secs => u.allowed), u.expires_at) END, u.share_id,
           u.timeout, u.expires_at, coalesce(u.paused, false), u.attempt IS NOT NULL,
           u.bytes, u.revision, coalesce(u.attempt - u.charged, 0)
      FROM unnest($1::uuid[], $2::int2[], $3::int4[], $4::int4[], $5::int2[], $6::int8[], $7::uuid[], $8::float8[], $9::int4[],
                  $10::int4[], $11::int2[], $12::float8[], $13::timestamptz[], $14::timestamptz[], $15::bool[],
                  $16::int4[], $17::int4[])
           AS u(task_id, step, template_id, lane_id, priority, lease, worker_id, allowed, share_id, attempt, charged, timeout,
                expires_at, not_before, paused, bytes, revision),
           (SELECT coalesce($18::timestamptz, now()) AS now) AS c
     WHERE (",
    check_admission!("$19", "$20", "coalesce($18::timestamptz, now())"),
    ")"
);

columns!(NewLiveSteps from l: NewLive {
    task_id: Uuid = l.task_id,
    step: i16 = l.step,
    template_id: i32 = l.template_id,
    lane_id: i32 = l.lane_id,
    priority: i16 = l.priority,
    lease: Option<i64> = l.grant.map(|grant| grant.nonce),
    worker_id: Option<Uuid> = l.grant.map(|grant| grant.worker_id),
    allowed: Option<f64> = l.grant.map(|grant| grant.timeout.as_secs_f64()),
    share_id: Option<i32> = l.grant.and_then(|grant| grant.share_id),
    attempt: Option<i32> = l.past.map(|past| past.attempt),
    charged: Option<i16> = l.past.map(|past| past.charged),
    timeout: Option<f64> = l.timeout.map(|timeout| timeout.as_secs_f64()),
    expires_at: Option<SystemTime> = l.expires_at,
    not_before: Option<SystemTime> = l.not_before,
    paused: Option<bool> = l.paused.then_some(true),
    bytes: Option<i32> = Some(l.bytes).filter(|bytes| *bytes > 0),
    revision: Option<i32> = Some(l.revision).filter(|revision| *revision > 0),
});
