//! The consequences of an ended step: the steps it unlocks, the steps a condition skips, and the
//! changes a planner makes.

use uuid::Uuid;

use super::decision::Decision;
use crate::{
    domain::{
        attempt::Failure,
        event::EventType,
        progress::{Fate, StepSet},
        step::StepState,
        task::TaskEvent,
    },
    engine::{
        evaluate::{conditions::condition_failed, verdicts::Verdicts},
        plan::task_plan::TaskPlan,
    },
    store::pipeline::{Event, NewLive, SetStep},
};

/// The actor recorded for a step that a condition set.
const CONDITION: &str = "condition";

impl Decision<'_> {
    /// Inserts the children whose last parent this was, or skips them, and so on for the children
    /// of skipped steps.
    pub fn unlock(&mut self, task_id: Uuid, step: i16, is_done: bool, verdicts: &Verdicts) {
        let Some(task) = self.tasks.get_mut(&task_id) else {
            return;
        };
        task.changed = true;
        let step = step.cast_unsigned();
        let own = &task.own;
        let overtaken = || Fate::Fails(condition_failed("the task changed during each evaluation"));
        let mut fate = |done: &StepSet, child: u16| {
            let judged = || verdicts.fate(own.plan, done, child).cloned();
            own.unconditional(child)
                .or_else(judged)
                .unwrap_or_else(overtaken)
        };
        let fates = task
            .progress
            .step_ended(&own.plan.graph, step, is_done, &mut fate);
        for (child, fate) in fates {
            let set = match fate {
                Fate::Runs => {
                    let live = new_live(&task.own, task_id, child, task.priority);
                    let (expires_at, paused) = (task.row.expires_at, task.progress.paused);
                    self.changes.new_live.push(NewLive {
                        expires_at,
                        paused,
                        ..live
                    });
                    continue;
                }
                Fate::Skipped => SetStep::by_condition(task_id, child, self.now, None),
                Fate::Fails(failure) => {
                    SetStep::by_condition(task_id, child, self.now, Some(failure))
                }
            };
            self.changes
                .events
                .push(set_step_event(&set, task.row.template_id));
            self.changes.set_steps.push(set);
        }
    }

    /// Counts one queue row of the task less.
    pub(super) fn leaves_play(&mut self, task_id: Uuid) {
        if let Some(task) = self.tasks.get_mut(&task_id) {
            task.changed = true;
            task.progress.live = task.progress.live.saturating_sub(1);
        }
    }

    /// Starts a pending task, as one of its steps was set before any ran.
    pub(super) fn begin(&mut self, task_id: Uuid) {
        let Some(task) = self.tasks.get_mut(&task_id) else {
            return;
        };
        if let Ok(after) = task.progress.state.after(TaskEvent::Start) {
            task.progress.state = after;
            self.changes.events.push(Event::of_task(
                EventType::TaskStarted,
                task.row.template_id,
                task_id,
            ));
        }
    }
}

impl SetStep {
    /// A step that had no queue row.
    pub fn by_condition(
        task_id: Uuid,
        step: u16,
        now: std::time::SystemTime,
        failure: Option<Failure>,
    ) -> Self {
        Self {
            task_id,
            step: step.cast_signed(),
            state: if failure.is_some() {
                StepState::Error
            } else {
                StepState::Skipped
            },
            in_queue: false,
            attempt: 0,
            charged: 0,
            ready_at: now,
            started_at: None,
            result: None,
            failure,
            by: CONDITION.to_owned(),
            reason: String::new(),
        }
    }
}

/// The event of a step that was set.
pub fn set_step_event(set: &SetStep, template_id: i32) -> Event {
    let kind = match set.state {
        StepState::Error => EventType::StepFailed,
        StepState::ResolvedManually => EventType::StepResolved,
        _ => EventType::StepSkipped,
    };
    Event {
        step: Some(set.step),
        failure: set.failure.clone(),
        ordered: Some((set.by.clone(), set.reason.clone())),
        ..Event::of_task(kind, template_id, set.task_id)
    }
}

/// The queue row of a step that comes into play.
pub fn new_live(own: &TaskPlan<'_>, task_id: Uuid, step: u16, priority: i16) -> NewLive {
    NewLive {
        task_id,
        step: step.cast_signed(),
        template_id: own.plan.template_id,
        lane_id: own.plan.lane(step),
        priority,
        past: None,
        timeout: own.timeout(step),
        expires_at: None,
        not_before: None,
        paused: false,
        bytes: 0,
        revision: 0,
        grant: None,
    }
}
