//! Converts the lists of a [`Changes`] to the arrays that `unnest` takes: one statement per list.

use std::{error::Error, time::SystemTime};

use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use tokio_util::bytes::BytesMut;
use uuid::Uuid;

use super::changes::{Changes, EndedAttempt, WantedInputs};
use crate::domain::attempt::Failure;

/// The parameters of one statement.
pub(super) type Params<'a> = Vec<&'a (dyn ToSql + Sync)>;

/// A value of a column.
trait Cell {
    fn is_null(&self) -> bool {
        false
    }
}

macro_rules! cells {
    ($($type:ty),*) => { $(impl Cell for $type {})* };
}
cells!(Uuid, i16, i32, i64, f64, bool, SystemTime, &str, &[u8]);

impl<T> Cell for Option<T> {
    fn is_null(&self) -> bool {
        self.is_none()
    }
}

/// NULL of any type.
#[derive(Debug)]
struct Null;

impl ToSql for Null {
    fn to_sql(&self, _: &Type, _: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        Ok(IsNull::Yes)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// The column as a parameter. A column without any value, such as the errors of a batch without
/// failures, is a single NULL: `unnest` extends it, which saves both sides the encoding of all its
/// cells.
fn param<T: Cell + ToSql + Sync>(column: &Vec<T>) -> &(dyn ToSql + Sync) {
    if column.iter().all(Cell::is_null) {
        &Null
    } else {
        column
    }
}

/// The arrays of one list, in the order of the statement's parameters.
macro_rules! columns {
    ($name:ident { $first:ident: $first_type:ty $(, $field:ident: $type:ty)* $(,)? }) => {
        #[derive(Default)]
        pub(super) struct $name<'a> {
            $first: Vec<$first_type>,
            $($field: Vec<$type>,)*
            lifetime: std::marker::PhantomData<&'a ()>,
        }

        impl<'a> $name<'a> {
            /// The arrays, followed by `more`; `None` for an empty list, whose statement is not
            /// sent.
            pub(super) fn params<'p>(&'p self, more: &[&'p (dyn ToSql + Sync)]) -> Option<Params<'p>> {
                if self.$first.is_empty() {
                    return None;
                }
                let mut params: Params<'p> = vec![&self.$first $(, param(&self.$field))*];
                params.extend_from_slice(more);
                Some(params)
            }
        }
    };
}

columns!(NewTasks {
    task_id: Uuid, template_id: i32, state: &'a str, priority: i16, total: i16, live: i16, done: &'a [u8],
    correlation_id: &'a str, traceparent: Option<&'a str>, annotations: &'a str, context: &'a str,
    settings: Option<&'a str>, not_before: Option<SystemTime>, expires_at: Option<SystemTime>, failed_step: Option<i16>,
    bytes: i32,
});
columns!(Ids { task_id: Uuid });
columns!(Keys { namespace: &'a str, key: &'a str, task_id: Uuid });
columns!(EndedSteps {
    task_id: Uuid, step: i16, lease: Option<i64>, state: &'a str, attempt: i32, charged: i16, result: Option<&'a str>,
    code: Option<&'a str>, message: Option<&'a str>, context: Option<&'a str>, ready_at: SystemTime,
    started_at: Option<SystemTime>,
});
columns!(Retries {
    task_id: Uuid, step: i16, lease: i64, outcome: &'a str, charged: bool, base: f64, multiplier: f64, max: f64,
    jitter: f64, retry_after: Option<f64>, code: Option<&'a str>, message: Option<&'a str>, context: Option<&'a str>,
    worker_id: Uuid, ready_at: SystemTime, started_at: SystemTime,
});
columns!(GivenBack {
    task_id: Uuid,
    step: i16,
    lease: i64,
    lost: bool
});
columns!(NewLives {
    task_id: Uuid, step: i16, template_id: i32, lane_id: i32, priority: i16, lease: Option<i64>,
    worker_id: Option<Uuid>, allowed: Option<f64>, share_id: Option<i32>, attempt: Option<i32>, charged: Option<i16>,
    timeout: Option<f64>, expires_at: Option<SystemTime>, not_before: Option<SystemTime>, paused: Option<bool>,
    bytes: Option<i32>, revision: Option<i32>,
});
columns!(Claims {
    task_id: Uuid, step: i16, lease: i64, worker_id: Uuid, timeout: f64, share_id: Option<i32>, root: bool,
});
columns!(Throttles {
    service_id: i32,
    seconds: f64
});
columns!(LockedShares {
    share_id: i32,
    term: i64
});
columns!(SpentProbes {
    share_id: i32,
    term: i64,
    spent: i32
});
columns!(Tasks {
    task_id: Uuid, state: &'a str, live: i16, done: &'a [u8], failed_step: Option<i16>, cancelled_by: Option<&'a str>,
    reason: Option<&'a str>, old_state: Option<&'a str>, old_live: Option<i16>, old_done: Option<&'a [u8]>,
    bytes: i32,
});
columns!(Events {
    kind: &'a str, template_id: Option<i32>, task_id: Option<Uuid>, step: Option<i16>, attempt: Option<i32>,
    worker_id: Option<Uuid>, outcome: Option<&'a str>, charged: Option<bool>, lease: Option<i64>,
    ready_at: Option<SystemTime>, started_at: Option<SystemTime>, code: Option<&'a str>, message: Option<&'a str>,
    context: Option<&'a str>, actor: Option<&'a str>, detail: Option<&'a str>,
});
columns!(SetSteps {
    task_id: Uuid, step: i16, state: &'a str, in_queue: bool, attempt: i32, charged: i16, ready_at: SystemTime,
    started_at: Option<SystemTime>, result: Option<&'a str>, code: Option<&'a str>, message: Option<&'a str>,
    context: Option<&'a str>, by: &'a str, reason: &'a str,
});
columns!(TaskPauses { task_id: Uuid, by: Option<&'a str>, reason: Option<&'a str> });
columns!(Marks { task_id: Uuid, by: Option<&'a str>, reason: Option<&'a str>, code: Option<&'a str> });
columns!(Plans { task_id: Uuid, settings: &'a str, annotations: &'a str, priority: i16 });
columns!(Deadlines {
    task_id: Uuid,
    expires_at: SystemTime
});
columns!(StepIds {
    task_id: Uuid,
    step: i16
});
columns!(LateResults { task_id: Uuid, step: i16, lease: i64, outcome: &'a str });

/// All lists of one transaction as arrays.
#[derive(Default)]
pub(super) struct Columns<'a> {
    pub new_tasks: NewTasks<'a>,
    pub dropped: Keys<'a>,
    pub ended: EndedSteps<'a>,
    pub ended_count: i64,
    /// The tasks of the steps that end without a lease: each of them ends with all its rows in
    /// play.
    pub ended_whole: Vec<Uuid>,
    pub retries: Retries<'a>,
    pub retry_count: i64,
    pub given_back: GivenBack<'a>,
    pub given_back_count: i64,
    pub set_steps: SetSteps<'a>,
    pub reopened: StepIds<'a>,
    pub new_live: NewLives<'a>,
    pub claims: Claims<'a>,
    /// The services of the claims, and their known admission versions.
    pub services: Vec<i32>,
    pub versions: Vec<i64>,
    pub locked_shares: LockedShares<'a>,
    pub spent_probes: SpentProbes<'a>,
    pub throttles: Throttles<'a>,
    pub tasks: Tasks<'a>,
    pub task_count: i64,
    pub task_pauses: TaskPauses<'a>,
    pub marks: Marks<'a>,
    pub planned: Plans<'a>,
    pub deadlines: Deadlines<'a>,
    pub expired: Ids<'a>,
    pub late: LateResults<'a>,
    pub events: Events<'a>,
    pub task_inputs: Ids<'a>,
    pub result_inputs: StepIds<'a>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(changes: &'a Changes, inputs: &'a WantedInputs) -> Self {
        let mut c = Self::default();
        c.tasks(changes);
        c.outcomes(changes);
        c.orders(changes);
        c.claims(changes);
        c.events(changes);
        c.services(changes);
        c.task_inputs
            .task_id
            .extend(inputs.tasks.iter().map(|(task_id, _)| task_id));
        for (task_id, step) in &inputs.results {
            c.result_inputs.task_id.push(*task_id);
            c.result_inputs.step.push(*step);
        }
        c
    }

    fn tasks(&mut self, changes: &'a Changes) {
        for t in &changes.new_tasks {
            let c = &mut self.new_tasks;
            c.task_id.push(t.task_id);
            c.template_id.push(t.template_id);
            c.state.push(t.state.as_str());
            c.priority.push(t.priority);
            c.total.push(t.steps_total);
            c.live.push(t.steps_live);
            c.done.push(&t.steps_done);
            c.correlation_id.push(&t.correlation_id);
            c.traceparent.push(t.traceparent.as_deref());
            c.annotations.push(&t.annotations);
            c.context.push(&t.context);
            c.settings.push(t.settings.as_deref());
            c.not_before.push(t.not_before);
            c.expires_at.push(t.expires_at);
            c.failed_step.push(t.failed_step);
            c.bytes.push(t.bytes);
            if let Some(expires_at) = t.expires_at.filter(|_| !t.state.is_final()) {
                self.deadlines.task_id.push(t.task_id);
                self.deadlines.expires_at.push(expires_at);
            }
        }
        for t in &changes.tasks {
            let c = &mut self.tasks;
            c.task_id.push(t.task_id);
            c.state.push(t.state.as_str());
            c.live.push(t.steps_live);
            c.done.push(&t.steps_done);
            c.failed_step.push(t.failed_step);
            c.cancelled_by
                .push(t.cancelled.as_ref().map(|(by, _)| by.as_str()));
            c.reason
                .push(t.cancelled.as_ref().map(|(_, reason)| reason.as_str()));
            let expected = t.expected.as_ref();
            c.old_state.push(expected.map(|p| p.state.as_str()));
            c.old_live
                .push(expected.map(|p| i16::try_from(p.live).unwrap_or(i16::MAX)));
            c.old_done.push(expected.map(|p| p.done.as_bytes()));
            c.bytes.push(t.bytes);
        }
        self.task_count = count(changes.tasks.len());
        for k in &changes.dropped_keys {
            self.dropped.namespace.push(&k.namespace);
            self.dropped.key.push(&k.key);
            self.dropped.task_id.push(k.task_id);
        }
    }

    fn outcomes(&mut self, changes: &'a Changes) {
        for e in &changes.ended {
            let c = &mut self.ended;
            c.task_id.push(e.task_id);
            c.step.push(e.step);
            c.lease.push(e.lease);
            if e.lease.is_none() {
                self.ended_whole.push(e.task_id);
            }
            c.state.push(e.state.as_str());
            c.attempt.push(e.attempt);
            c.charged.push(e.charged);
            c.result.push(e.result.as_deref());
            let (code, message, context) = failure(e.failure.as_ref());
            c.code.push(code);
            c.message.push(message);
            c.context.push(context);
            c.ready_at.push(e.ready_at);
            c.started_at.push(e.started_at);
        }
        self.ended_count = count(changes.ended.len());
        for r in &changes.retries {
            let c = &mut self.retries;
            let a: &EndedAttempt = &r.attempt;
            c.task_id.push(a.task_id);
            c.step.push(a.step);
            c.lease.push(a.lease);
            c.outcome.push(a.outcome.as_str());
            c.charged.push(a.charged);
            c.base.push(r.backoff.base_seconds);
            c.multiplier.push(r.backoff.multiplier);
            c.max.push(r.backoff.max_seconds);
            c.jitter.push(r.backoff.jitter);
            c.retry_after.push(a.retry_after.map(|d| d.as_secs_f64()));
            let (code, message, context) = failure(a.failure.as_ref());
            c.code.push(code);
            c.message.push(message);
            c.context.push(context);
            c.worker_id.push(a.worker_id);
            c.ready_at.push(a.ready_at);
            c.started_at.push(a.started_at);
        }
        self.retry_count = count(changes.retries.len());
        for g in &changes.given_back {
            let c = &mut self.given_back;
            c.task_id.push(g.attempt.task_id);
            c.step.push(g.attempt.step);
            c.lease.push(g.attempt.lease);
            c.lost.push(g.lost);
        }
        self.given_back_count = count(changes.given_back.len());
    }

    fn orders(&mut self, changes: &'a Changes) {
        for s in &changes.set_steps {
            let c = &mut self.set_steps;
            c.task_id.push(s.task_id);
            c.step.push(s.step);
            c.state.push(s.state.as_str());
            c.in_queue.push(s.in_queue);
            c.attempt.push(s.attempt);
            c.charged.push(s.charged);
            c.ready_at.push(s.ready_at);
            c.started_at.push(s.started_at);
            c.result.push(s.result.as_deref());
            let (code, message, context) = failure(s.failure.as_ref());
            c.code.push(code);
            c.message.push(message);
            c.context.push(context);
            c.by.push(&s.by);
            c.reason.push(&s.reason);
        }
        for (task_id, step) in &changes.reopened {
            self.reopened.task_id.push(*task_id);
            self.reopened.step.push(*step);
        }
        for pause in &changes.task_pauses {
            self.task_pauses.task_id.push(pause.task_id);
            self.task_pauses
                .by
                .push(pause.by.as_ref().map(|(by, _)| by.as_str()));
            self.task_pauses
                .reason
                .push(pause.by.as_ref().map(|(_, reason)| reason.as_str()));
        }
        for mark in &changes.marks {
            self.marks.task_id.push(mark.task_id);
            self.marks
                .by
                .push(mark.resolved.as_ref().map(|(by, _)| by.as_str()));
            self.marks
                .reason
                .push(mark.resolved.as_ref().map(|(_, reason)| reason.as_str()));
            self.marks.code.push(mark.error_code.as_deref());
        }
        for planned in &changes.planned {
            self.planned.task_id.push(planned.task_id);
            self.planned.settings.push(&planned.settings);
            self.planned.annotations.push(&planned.annotations);
            self.planned.priority.push(planned.priority);
        }
        self.expired.task_id.extend(&changes.expired);
        for late in &changes.late {
            self.late.task_id.push(late.lease.task_id);
            self.late.step.push(late.lease.step);
            self.late.lease.push(late.lease.nonce);
            self.late.outcome.push(late.outcome.as_str());
        }
    }

    fn claims(&mut self, changes: &'a Changes) {
        for l in &changes.new_live {
            let c = &mut self.new_live;
            c.task_id.push(l.task_id);
            c.step.push(l.step);
            c.template_id.push(l.template_id);
            c.lane_id.push(l.lane_id);
            c.priority.push(l.priority);
            c.lease.push(l.grant.map(|g| g.nonce));
            c.worker_id.push(l.grant.map(|g| g.worker_id));
            c.allowed.push(l.grant.map(|g| g.timeout.as_secs_f64()));
            c.share_id.push(l.grant.and_then(|g| g.share_id));
            c.attempt.push(l.past.map(|past| past.attempt));
            c.charged.push(l.past.map(|past| past.charged));
            c.timeout
                .push(l.timeout.map(|timeout| timeout.as_secs_f64()));
            c.expires_at.push(l.expires_at);
            c.not_before.push(l.not_before);
            c.paused.push(l.paused.then_some(true));
            c.bytes.push(Some(l.bytes).filter(|bytes| *bytes > 0));
            c.revision
                .push(Some(l.revision).filter(|revision| *revision > 0));
        }
        for claim in &changes.claims {
            let c = &mut self.claims;
            c.task_id.push(claim.task_id);
            c.step.push(claim.step);
            c.lease.push(claim.grant.nonce);
            c.worker_id.push(claim.grant.worker_id);
            c.timeout.push(claim.grant.timeout.as_secs_f64());
            c.share_id.push(claim.grant.share_id);
            c.root.push(claim.root);
        }
    }

    fn services(&mut self, changes: &'a Changes) {
        for admission in &changes.admissions {
            self.services.push(admission.service_id);
            self.versions.push(admission.version);
            match admission.share {
                Some(used) if used.spent > 0 => {
                    self.spent_probes.share_id.push(used.share_id);
                    self.spent_probes.term.push(used.term);
                    self.spent_probes.spent.push(used.spent);
                }
                Some(used) => {
                    self.locked_shares.share_id.push(used.share_id);
                    self.locked_shares.term.push(used.term);
                }
                None => {}
            }
        }
        for throttle in &changes.throttles {
            self.throttles.service_id.push(throttle.service_id);
            self.throttles.seconds.push(throttle.seconds);
        }
    }

    fn events(&mut self, changes: &'a Changes) {
        for e in &changes.events {
            let c = &mut self.events;
            c.kind.push(e.kind.as_str());
            c.template_id.push(e.template_id);
            c.task_id.push(e.task_id);
            c.step.push(e.step);
            c.attempt.push(e.attempt);
            c.worker_id.push(e.worker_id);
            c.outcome.push(
                e.outcome
                    .map(super::super::domain::attempt::OutcomeKind::as_str),
            );
            c.charged.push(e.charged);
            c.lease.push(e.lease);
            c.ready_at.push(e.ready_at);
            c.started_at.push(e.started_at);
            let (code, message, context) = failure(e.failure.as_ref());
            c.code.push(code);
            c.message.push(message);
            c.context.push(context);
            c.actor.push(e.ordered.as_ref().map(|(by, _)| by.as_str()));
            c.detail
                .push(e.ordered.as_ref().map(|(_, reason)| reason.as_str()));
        }
    }
}

/// Code, message and context as columns; an empty code is NULL.
fn failure(failure: Option<&Failure>) -> (Option<&str>, Option<&str>, Option<&str>) {
    match failure {
        None => (None, None, None),
        Some(f) => (
            Some(f.code.as_str()).filter(|c| !c.is_empty()),
            Some(&f.message),
            f.context.as_deref(),
        ),
    }
}

fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
