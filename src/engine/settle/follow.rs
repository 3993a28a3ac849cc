//! The consequences of an ended step: the steps it unlocks, the steps a condition skips, and the
//! changes a planner makes.

use std::borrow::Cow;

use uuid::Uuid;

use super::{
    decision::Decision,
    judging::{Answer, Planning, Verdicts},
};
use crate::{
    domain::{
        attempt::{Failure, Outcome},
        event::EventType,
        lease::Lease,
        progress::{Fate, StepSet},
        size,
        step::StepState,
        task::TaskEvent,
    },
    engine::{conditions::condition_failed, effective::Effective},
    store::{
        pipeline::{Event, NewLive, Planned, SetStep},
        stranded::Stranded,
    },
};

/// The actor recorded for a step that a condition set.
const CONDITION: &str = "condition";

impl Decision<'_> {
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
            Some(Answer::Wrong(wrong)) => {
                Cow::Owned(Outcome::PermanentError(wrong.failure.clone()))
            }
            Some(Answer::Plan(planning)) => {
                self.plan(lease.task_id, planning);
                Cow::Borrowed(outcome)
            }
            Some(Answer::Fits) | None => Cow::Borrowed(outcome),
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

    /// Fails a waiting step whose assignment is too large, unless a worker has claimed it meanwhile
    /// or its task is paused.
    pub(super) fn too_large(&mut self, stranded: &Stranded) {
        let (task_id, step) = (stranded.task_id, stranded.step);
        let Some(row) = self
            .live
            .get(&(task_id, step))
            .copied()
            .filter(|row| row.lease.is_none())
        else {
            return;
        };
        let Some(task) = self
            .tasks
            .get(&task_id)
            .filter(|task| !task.progress.paused)
        else {
            return;
        };
        let name = task
            .own
            .plan
            .step(step)
            .map_or("", |step| step.name.as_str());
        let set = SetStep {
            in_queue: true,
            attempt: row.attempt,
            charged: row.charged,
            ready_at: row.ready_at.min(self.now),
            by: "size".to_owned(),
            ..SetStep::by_condition(
                task_id,
                step.cast_unsigned(),
                self.now,
                Some(too_large(stranded, name)),
            )
        };
        self.changes.events.push(told(&set, task.row.template_id));
        self.changes.set_steps.push(set);
        self.live.remove(&(task_id, step));
        self.touched.push((task_id, false));
        self.begin(task_id);
        self.leaves_play(task_id);
        self.follow(task_id, step, false, &Verdicts::default());
    }

    /// Counts one queue row of the task less.
    pub(super) fn leaves_play(&mut self, task_id: Uuid) {
        if let Some(task) = self.tasks.get_mut(&task_id) {
            task.changed = true;
            task.progress.live = task.progress.live.saturating_sub(1);
        }
    }

    /// Inserts the children whose last parent this was, or skips them, and so on for the children
    /// of skipped steps.
    pub(super) fn follow(&mut self, task_id: Uuid, step: i16, is_done: bool, verdicts: &Verdicts) {
        let Some(task) = self.tasks.get_mut(&task_id) else {
            return;
        };
        task.changed = true;
        let step = step.cast_unsigned();
        let own = &task.own;
        let overtaken = || Fate::Fails(condition_failed("the task changed during each evaluation"));
        let mut fate = |done: &StepSet, child: u16| {
            let judged = || verdicts.fate(own.plan, done, child).cloned();
            own.plan
                .unconditional(own, child)
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
            self.changes.events.push(told(&set, task.row.template_id));
            self.changes.set_steps.push(set);
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

/// The failure of a step whose assignment exceeds the limit of every connected worker.
fn too_large(step: &Stranded, name: &str) -> Failure {
    let message = format!(
        "the assignment of step {name} has up to {} ({} bytes), and the largest that a connected worker of handler {} takes is {} ({} \
         bytes): give the step fewer results, by `inputs` in its template, or let its workers register a larger `max_assignment_bytes`",
        size::bytes(step.bytes),
        step.bytes,
        step.handler,
        size::bytes(step.largest),
        step.largest,
    );
    Failure::of_server(size::ASSIGNMENT_TOO_LARGE, message).cut()
}

/// The event of a step that was set.
pub fn told(set: &SetStep, template_id: i32) -> Event {
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
pub fn new_live(own: &Effective<'_>, task_id: Uuid, step: u16, priority: i16) -> NewLive {
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
