//! The explanation of a task: the stored facts, combined with its template, as a message of the
//! protocol.

use std::time::Duration;

use tasker_template::StepIndex;
use uuid::Uuid;

use super::convert::{step_state, task_state, timestamp};
use crate::{
    domain::{
        explain::{Cause, Reason, StepFacts, next, reasons, summary},
        step::StepState,
    },
    engine::{Plan, TaskPlan},
    proto,
    store::explain::Explained,
};

/// Bound on the message of a reason, in bytes.
const MAX_MESSAGE_BYTES: usize = 1_024;

pub fn response(
    task_id: Uuid,
    found: Explained,
    plan: &Plan,
    lease: Duration,
) -> proto::ExplainTaskResponse {
    let now = found.now;
    let own = TaskPlan::of(plan, found.settings.as_deref());
    let steps: Vec<(StepFacts, Vec<Reason>)> = complete(found.steps, &own)
        .into_iter()
        .map(|step| {
            let step = StepFacts { lease, ..step };
            let reasons = reasons(&step, now);
            (step, reasons)
        })
        .collect();
    let mut summary = summary(found.task_state, &steps);
    if let Some((by, why)) = found.ended_by {
        summary += &format!(", by {by}: {why}");
    }
    proto::ExplainTaskResponse {
        state: task_state(found.task_state).into(),
        summary,
        next: next(&task_id.to_string(), &plan.template.namespace, &steps),
        steps: steps
            .into_iter()
            .filter(|(step, reasons)| !reasons.is_empty() || step.late.is_some())
            .map(explanation)
            .collect(),
        as_of: Some(timestamp(now)),
    }
}

/// Adds the facts from the template and the task's settings.
fn complete(steps: Vec<StepFacts>, own: &TaskPlan<'_>) -> Vec<StepFacts> {
    let states: Vec<(String, StepState)> = steps
        .iter()
        .map(|step| (step.name.clone(), step.state))
        .collect();
    let with = |(index, mut step): (StepIndex, StepFacts)| {
        step.retry_limit = own.step(index.into()).map_or(0, |step| step.retry_limit);
        let parents = own
            .plan
            .graph
            .parents(index)
            .iter()
            .filter_map(|parent| states.get(usize::from(*parent)));
        step.parents = parents
            .filter(|(_, state)| !state.is_done())
            .cloned()
            .collect();
        step
    };
    StepIndex::all(steps.len()).zip(steps).map(with).collect()
}

fn explanation((step, reasons): (StepFacts, Vec<Reason>)) -> proto::StepExplanation {
    let signed = |n: u32| i32::try_from(n).unwrap_or(i32::MAX);
    // The attempt in progress is neither charged nor free yet.
    let running = u32::from(step.state == StepState::InProgress);
    proto::StepExplanation {
        step: step.name,
        state: step_state(step.state).into(),
        waits: reasons.into_iter().map(wait).collect(),
        handler: step.handler,
        service: step.service.name,
        waits_for: step.parents.into_iter().map(|(name, _)| name).collect(),
        attempt: signed(step.attempt),
        charged_attempts: signed(step.charged),
        free_attempts: signed(step.attempt.saturating_sub(step.charged + running)),
        retry_limit: signed(step.retry_limit),
        ahead: signed(step.ahead),
        worker_name: step.worker_name.unwrap_or_default(),
        workers_connected: signed(step.workers.connected),
        slots_free: signed(step.workers.free),
        late_answer: step.late.map(|late| late.message()).unwrap_or_default(),
    }
}

/// A message that includes a step's error may be long, and there may be a thousand.
fn cut(mut message: String) -> String {
    if message.len() > MAX_MESSAGE_BYTES {
        let end = (0..MAX_MESSAGE_BYTES)
            .rev()
            .find(|i| message.is_char_boundary(*i))
            .unwrap_or_default();
        message.truncate(end);
        message.push('…');
    }
    message
}

fn wait(reason: Reason) -> proto::Wait {
    proto::Wait {
        cause: wait_cause(reason.cause).into(),
        message: cut(reason.message),
        since: reason.since.map(timestamp),
        until: reason.until.map(timestamp),
    }
}

pub fn wait_cause(cause: Cause) -> proto::WaitCause {
    use proto::WaitCause as W;
    match cause {
        Cause::Parents => W::Parents,
        Cause::Backoff => W::Backoff,
        Cause::Circuit => W::Circuit,
        Cause::Throttle => W::Pause,
        Cause::Limit => W::Limit,
        Cause::NoWorker => W::NoWorker,
        Cause::Busy => W::Busy,
        Cause::Dispatch => W::Dispatch,
        Cause::Running => W::Running,
        Cause::Failed => W::Failed,
        Cause::Paused => W::Paused,
        Cause::NotBefore => W::NotBefore,
        Cause::TooLarge => W::TooLarge,
    }
}
