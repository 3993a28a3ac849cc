//! Commands of operators and clients: the guards that they share.

use uuid::Uuid;

use super::{decision::Decision, input::PendingInput};
use crate::{
    domain::{
        event::EventType,
        order::{Order, OrderError},
        step::StepState,
        task::{TaskEvent, TaskState},
    },
    engine::evaluate::verdicts::EvaluationRequest,
    store::pipeline::{EndedRow, Event, LiveRow},
};

impl<'a> Decision<'a> {
    /// Applies a command; or returns the refusal or the evaluation it needs first, with no change
    /// made.
    pub(super) fn order(
        &mut self,
        task_id: Uuid,
        order: &Order,
        who: (String, String),
        input: &PendingInput,
    ) -> Result<Option<EvaluationRequest>, OrderError> {
        match order {
            Order::Cancel => self.cancel(task_id, who),
            Order::Pause => self.pause(task_id, who),
            Order::Resume => self.resume(task_id, who),
            Order::Retry { step, fresh } => self.retry(task_id, step.as_deref(), *fresh, who),
            Order::ResolveStep { step, .. } | Order::Skip { step } => {
                return self.set(task_id, step, order, who, input);
            }
            Order::ResolveTask => self.resolve(task_id, who),
        }
        .map(|()| None)
    }

    pub(super) fn state(&self, task_id: Uuid) -> Result<TaskState, OrderError> {
        self.tasks
            .get(&task_id)
            .map(|task| task.progress.state)
            .ok_or(OrderError::NotFound(task_id))
    }

    /// The state after `event`, or the refusal.
    pub(super) fn after(
        &self,
        task_id: Uuid,
        event: TaskEvent,
        verb: &'static str,
    ) -> Result<TaskState, OrderError> {
        let state = self.state(task_id)?;
        state
            .after(event)
            .map_err(|_| OrderError::TaskIs { state, verb })
    }

    pub(super) fn log(&mut self, task_id: Uuid, kind: EventType, who: &(String, String)) {
        let Some(task) = self.tasks.get_mut(&task_id) else {
            return;
        };
        task.changed = true;
        let event = Event::of_task(kind, task.row.template_id, task_id);
        self.changes.events.push(Event {
            ordered: Some(who.clone()),
            ..event
        });
        self.changed_tasks.push((task_id, false));
    }

    /// The state of a task that accepts commands on its steps.
    pub(super) fn open_to_orders(
        &self,
        task_id: Uuid,
        verb: &'static str,
    ) -> Result<TaskState, OrderError> {
        let state = self.state(task_id)?;
        // Also a task that failed before its deadline passed: no claim starts after the deadline,
        // so a reopened step would wait for ever, and nothing would end the task.
        let expired = self.tasks.get(&task_id).is_some_and(|task| {
            task.row.error_code.is_some() || task.row.expires_at.is_some_and(|at| at <= self.now)
        });
        match state {
            TaskState::Error if expired => Err(OrderError::Expired(verb)),
            TaskState::Pending | TaskState::InProgress | TaskState::Error => Ok(state),
            _ => Err(OrderError::TaskIs { state, verb }),
        }
    }

    /// Reopens a failed task; leaves any other state.
    pub(super) fn go_on(
        &mut self,
        task_id: Uuid,
        who: &(String, String),
    ) -> Result<(), OrderError> {
        if let Ok(after) = self.state(task_id)?.after(TaskEvent::Reopen) {
            self.log(task_id, EventType::TaskReopened, who);
            self.tasks
                .entry(task_id)
                .and_modify(|task| task.progress.state = after);
        }
        if let Some(task) = self.tasks.get_mut(&task_id) {
            task.changed = true;
        }
        self.changed_tasks.push((task_id, false));
        Ok(())
    }

    pub(super) fn position(&self, task_id: Uuid, name: &str) -> Result<i16, OrderError> {
        let task = self
            .tasks
            .get(&task_id)
            .ok_or(OrderError::NotFound(task_id))?;
        let at = task
            .own
            .plan
            .template
            .steps
            .iter()
            .position(|step| step.name == name);
        at.and_then(|at| i16::try_from(at).ok())
            .ok_or_else(|| OrderError::NoStep(name.to_owned()))
    }

    pub(super) fn step_is(
        &self,
        task_id: Uuid,
        name: &str,
        step: i16,
        verb: &'static str,
    ) -> OrderError {
        let live = self.live.get(&(task_id, step)).map(|row| row.state);
        let state = live
            .or(self.ended.get(&(task_id, step)).map(|row| row.state))
            .unwrap_or(StepState::Pending);
        OrderError::StepIs {
            step: name.to_owned(),
            state,
            verb,
        }
    }

    pub(super) fn live_of(&self, task_id: Uuid) -> Vec<&'a LiveRow> {
        self.live
            .range((task_id, i16::MIN)..=(task_id, i16::MAX))
            .map(|(_, row)| *row)
            .collect()
    }

    pub(super) fn ended_of(&self, task_id: Uuid) -> Vec<&'a EndedRow> {
        self.ended
            .range((task_id, i16::MIN)..=(task_id, i16::MAX))
            .map(|(_, row)| *row)
            .collect()
    }
}
