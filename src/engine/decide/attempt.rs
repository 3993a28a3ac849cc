//! The end of an attempt, and its consequences for the step.

use std::borrow::Cow;

use tasker_template::Backoff;
use uuid::Uuid;

use super::decision::{Decision, FailedProbe};
use crate::{
    domain::{
        attempt::{Outcome, Spent},
        event::EventType,
        lease::Lease,
        step::{StepEvent, StepState},
    },
    engine::{
        admission::control::Call,
        evaluate::verdicts::{Planning, ResultVerdict, Verdicts},
    },
    store::pipeline::{Ended, EndedAttempt, Event, GivenBack, LiveRow, Planned, Retry},
};

/// Back-off of a step that was released by a worker that does not drain, or by several draining
/// workers.
const RELEASE_PAUSE: Backoff = Backoff {
    base_seconds: 1.0,
    multiplier: 1.0,
    max_seconds: 1.0,
    jitter: 0.0,
};

/// Longest back-off of a step whose assignments do not arrive, in seconds.
const MAX_UNDELIVERED_PAUSE_SECONDS: f64 = 30.0;

impl Decision<'_> {
    /// Ends the attempt if its lease is current and, if `holder` is given, belongs to that worker.
    /// Returns whether it did.
    pub(super) fn end_attempt(
        &mut self,
        lease: Lease,
        outcome: &Outcome,
        holder: Option<Uuid>,
        verdicts: &Verdicts,
    ) -> bool {
        let Some(row) = self.row(lease) else {
            return false;
        };
        let (Some(worker_id), Some(started_at)) = (row.worker_id, row.started_at) else {
            return false;
        };
        if holder.is_some_and(|holder| holder != worker_id) {
            return false;
        }
        let Some(task) = self.tasks.get(&lease.task_id) else {
            return false;
        };
        let (plan, template_id) = (task.own.plan, task.row.template_id);
        let Some(template) = task.own.step(lease.step) else {
            return false;
        };
        let outcome = &*self.judged(lease, outcome, verdicts);
        let limit = u16::try_from(template.retry_limit).unwrap_or(u16::MAX);
        let verdict = outcome.judge(spent(row), limit);
        let Ok(state) = StepState::InProgress.after(verdict.event) else {
            return false;
        };
        let attempt = EndedAttempt {
            task_id: lease.task_id,
            step: lease.step,
            template_id,
            attempt: row.attempt,
            lease: lease.nonce,
            worker_id,
            outcome: outcome.kind(),
            charged: verdict.charged,
            failure: outcome.failure(),
            retry_after: match outcome {
                Outcome::RetryableError { retry_after, .. } => *retry_after,
                _ => None,
            },
            ready_at: row.ready_at,
            started_at,
        };
        let lane_id = plan.lane(unsigned(lease.step));
        self.calls.push(Call {
            lane_id,
            outcome: attempt.outcome,
            started_at,
        });
        self.throttles
            .extend(attempt.retry_after.map(|time| (lane_id, time)));
        self.live.remove(&(lease.task_id, lease.step));
        self.changed_tasks.push((lease.task_id, false));
        match verdict.event {
            StepEvent::Retry => self.retry_later(row, attempt, outcome, template.backoff, lane_id),
            StepEvent::GiveBack => self.give_back(attempt, outcome),
            event => self.conclude(row, (event, state), &attempt, outcome, verdicts),
        }
        true
    }

    /// Lets the step wait for its next attempt.
    fn retry_later(
        &mut self,
        row: &LiveRow,
        attempt: EndedAttempt,
        outcome: &Outcome,
        own: Backoff,
        lane_id: i32,
    ) {
        let backoff = match outcome {
            Outcome::Released { .. } | Outcome::Drained => RELEASE_PAUSE,
            Outcome::Undelivered => undelivered_pause(unsigned(row.lost)),
            _ => own,
        };
        // Other uncharged retries are failed probes: they wait past the next probing.
        let is_outcome_of_handler = !matches!(
            outcome,
            Outcome::Released { .. } | Outcome::Drained | Outcome::Undelivered
        );
        if is_outcome_of_handler && !attempt.charged {
            self.failed_probes.push(FailedProbe {
                retry: self.changes.retries.len(),
                lane_id,
                attempt: u32::from(unsigned(row.charged)) + 1,
            });
        }
        self.changes.retries.push(Retry { attempt, backoff });
    }

    /// Makes the step ready again at once.
    fn give_back(&mut self, attempt: EndedAttempt, outcome: &Outcome) {
        self.changes
            .events
            .push(Event::of_attempt(EventType::StepRetrying, &attempt));
        let lost = matches!(outcome, Outcome::WorkerLost | Outcome::Undelivered);
        self.changes.given_back.push(GivenBack { attempt, lost });
    }

    /// Ends the step with its attempt.
    fn conclude(
        &mut self,
        row: &LiveRow,
        (event, state): (StepEvent, StepState),
        attempt: &EndedAttempt,
        outcome: &Outcome,
        verdicts: &Verdicts,
    ) {
        let is_done = event == StepEvent::Succeed;
        let kind = if is_done {
            EventType::StepCompleted
        } else {
            EventType::StepFailed
        };
        self.changes.events.push(Event::of_attempt(kind, attempt));
        let result = match outcome {
            Outcome::Succeeded(json) => Some(json.clone()),
            _ => None,
        };
        self.end_step(row, state, Some(attempt), result);
        // The row leaves the queue before its children are decided, so that the task's progress
        // counts only rows that stay in play.
        self.leaves_play(row.task_id);
        self.unlock(row.task_id, row.step, is_done, verdicts);
    }

    pub(super) fn end_step(
        &mut self,
        row: &LiveRow,
        state: StepState,
        attempt: Option<&EndedAttempt>,
        result: Option<String>,
    ) {
        self.changes.ended.push(Ended {
            task_id: row.task_id,
            step: row.step,
            lease: row.lease,
            state,
            attempt: row.attempt,
            charged: row.charged + i16::from(attempt.is_some_and(|a| a.charged)),
            result,
            failure: attempt.and_then(|a| a.failure.clone()),
            ready_at: row.ready_at,
            started_at: row.started_at,
        });
    }

    /// Returns the outcome to apply: a success becomes a permanent error if its result does not fit
    /// the schema or its plan is invalid. A valid plan takes effect on the task.
    pub(super) fn judged<'o>(
        &mut self,
        lease: Lease,
        outcome: &'o Outcome,
        verdicts: &Verdicts,
    ) -> Cow<'o, Outcome> {
        if !matches!(outcome, Outcome::Succeeded(_)) {
            return Cow::Borrowed(outcome);
        }
        match &verdicts.answer {
            Some(ResultVerdict::Wrong(wrong)) => {
                Cow::Owned(Outcome::PermanentError(wrong.failure.clone()))
            }
            Some(ResultVerdict::Plan(planning)) => {
                self.plan(lease.task_id, planning);
                Cow::Borrowed(outcome)
            }
            Some(ResultVerdict::Fits) | None => Cow::Borrowed(outcome),
        }
    }

    /// Applies a planner's answer to the task.
    pub(super) fn plan(&mut self, task_id: Uuid, planning: &Planning) {
        let Some(task) = self.tasks.get_mut(&task_id) else {
            return;
        };
        task.priority = planning.priority.unwrap_or(task.priority);
        task.own.settings = planning.settings.clone();
        task.planned = true;
        self.changes.planned.push(Planned {
            task_id,
            settings: planning.settings_json.clone(),
            annotations: planning.annotations.clone(),
            priority: task.priority,
        });
        self.changes.events.push(Event::of_task(
            EventType::TaskPlanned,
            task.row.template_id,
            task_id,
        ));
    }
}

/// The earlier attempts of a step. `free` counts those that were neither charged nor forgiven.
fn spent(row: &LiveRow) -> Spent {
    Spent {
        charged: unsigned(row.charged),
        lost: unsigned(row.lost),
        free: u16::try_from(row.attempt - 1 - i32::from(row.charged) - row.forgiven)
            .unwrap_or_default(),
        probe: row.probe,
    }
}

/// The back-off in seconds: 0.25 * 2^lost, at most [`MAX_UNDELIVERED_PAUSE_SECONDS`].
fn undelivered_pause(lost: u16) -> Backoff {
    let seconds = (0.25 * 2_f64.powi(lost.into())).min(MAX_UNDELIVERED_PAUSE_SECONDS);
    Backoff {
        base_seconds: seconds,
        multiplier: 1.0,
        max_seconds: seconds,
        jitter: 0.0,
    }
}

fn unsigned(n: i16) -> u16 {
    u16::try_from(n).unwrap_or_default()
}
