//! The conclusion of a decision: tasks that end with their last step in play.

use super::decision::{Decision, FailedProbe};
use crate::{
    domain::{attempt::Failure, event::EventType, task::TaskState},
    engine::{hash::HashSet, plan::compiled::Plans},
    store::pipeline::{Changes, Event, Kept, TaskUpdate},
};

impl Decision<'_> {
    /// Concludes the changed tasks and adds their updates and events.
    pub(super) fn finish(mut self) -> Self {
        for (task_id, task) in &mut self.tasks {
            if !task.changed {
                continue;
            }
            if let Some(event) = task.progress.conclusion(task.own.plan.template.steps.len())
                && let Ok(after) = task.progress.state.after(event)
            {
                task.progress.state = after;
            }
            let kind = match task.progress.state {
                TaskState::Complete => Some(EventType::TaskCompleted),
                TaskState::Error => Some(EventType::TaskFailed),
                TaskState::Cancelled => Some(EventType::TaskCancelled),
                TaskState::ResolvedManually => Some(EventType::TaskResolved),
                TaskState::Pending | TaskState::InProgress => None,
            };
            let mark = self
                .changes
                .marks
                .iter()
                .find(|mark| mark.task_id == *task_id);
            let failure = mark
                .and_then(|mark| mark.error_code.as_deref())
                .map(expired);
            let ordered = task
                .cancelled
                .clone()
                .or_else(|| mark.and_then(|mark| mark.resolved.clone()));
            let event = |kind| Event {
                failure,
                ordered,
                ..Event::of_task(kind, task.row.template_id, *task_id)
            };
            self.changes.events.extend(kind.map(event));
            self.changes.tasks.push(TaskUpdate {
                task_id: *task_id,
                state: task.progress.state,
                steps_live: i16::try_from(task.progress.live).unwrap_or(i16::MAX),
                steps_done: task.progress.done.as_bytes().to_vec(),
                failed_step: task
                    .progress
                    .failed_step
                    .and_then(|s| i16::try_from(s).ok()),
                cancelled: task.cancelled.take(),
                expected: None,
                bytes: task.row.bytes,
                kept: Kept {
                    template_id: task.row.template_id,
                    priority: task.priority,
                    settings: task.row.settings.clone(),
                    revision: task.row.revision,
                    expires_at: task.row.expires_at,
                },
            });
        }
        self.changed_tasks.sort_unstable();
        self.changed_tasks.dedup();
        for (task_id, ended) in &mut self.changed_tasks {
            *ended = self
                .tasks
                .get(task_id)
                .is_some_and(|task| task.progress.state.is_final());
        }
        self
    }
}

/// The failure of a task whose deadline passed.
fn expired(code: &str) -> Failure {
    Failure::of_server(
        code,
        "the task's deadline passed before its last step was done",
    )
}

/// Delays the retries of failed probes past the next probing of their service. `past_probing`
/// returns the least back-off of a lane, in seconds.
pub fn delay_failed_probes(
    changes: &mut Changes,
    probes: &[FailedProbe],
    past_probing: impl Fn(i32) -> f64,
) {
    for probe in probes {
        if let Some(retry) = changes.retries.get_mut(probe.retry) {
            let least = past_probing(probe.lane_id);
            retry.backoff = retry.backoff.at_least(probe.attempt, least);
        }
    }
}

/// The lanes of the steps that this transaction leaves due and unclaimed.
pub fn unserved_lanes(changes: &Changes, plans: &Plans) -> HashSet<i32> {
    let new = changes
        .new_live
        .iter()
        .filter(|live| live.grant.is_none() && live.is_due())
        .map(|live| live.lane_id);
    let given_back = changes.given_back.iter().filter_map(|back| {
        let plan = plans.get(&back.attempt.template_id)?;
        Some(plan.lane(u16::try_from(back.attempt.step).ok()?))
    });
    new.chain(given_back).collect()
}
