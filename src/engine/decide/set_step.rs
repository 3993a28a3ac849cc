//! Resolves a step with a result, or skips it.

use std::time::SystemTime;

use uuid::Uuid;

use super::{decision::Decision, input::PendingInput, unlock::set_step_event};
use crate::{
    domain::{
        order::{Order, OrderError},
        step::{StepEvent, StepState},
    },
    engine::evaluate::verdicts::{EvaluationRequest, ResultVerdict},
    store::pipeline::{EndedRow, Event, LiveRow, SetStep},
};

/// The rows of a step; none of a pending one.
#[derive(Clone, Copy)]
struct StepRows<'a> {
    live: Option<&'a LiveRow>,
    ended: Option<&'a EndedRow>,
}

impl StepRows<'_> {
    fn state(self) -> StepState {
        let live = self.live.map(|row| row.state);
        live.or(self.ended.map(|row| row.state))
            .unwrap_or(StepState::Pending)
    }

    /// The number of its attempts, and the number of charged ones.
    fn attempts(self) -> (i32, i16) {
        let live = self.live.map(|row| (row.attempt, row.charged));
        live.or(self.ended.map(|row| (row.attempt, row.charged)))
            .unwrap_or_default()
    }

    fn ready_at(self) -> Option<SystemTime> {
        let live = self.live.map(|row| row.ready_at);
        live.or(self.ended.map(|row| row.ready_at))
    }
}

impl Decision<'_> {
    /// Sets a step, or returns the refusal or the evaluation that it needs first. The order of the
    /// checks is the order of the refusals.
    pub(super) fn set(
        &mut self,
        task_id: Uuid,
        name: &str,
        order: &Order,
        who: (String, String),
        input: &PendingInput,
    ) -> Result<Option<EvaluationRequest>, OrderError> {
        let (step, verb) = (self.position(task_id, name)?, order.verb());
        let (result, event, wanted) = match order {
            Order::ResolveStep { result, .. } => (
                Some(result),
                StepEvent::Resolve,
                StepState::ResolvedManually,
            ),
            _ => (None, StepEvent::Skip, StepState::Skipped),
        };
        let rows = StepRows {
            live: self.live.get(&(task_id, step)).copied(),
            ended: self.ended.get(&(task_id, step)).copied(),
        };
        // A repeated command succeeds without effect, whatever the task's state is now.
        if let Some(row) = rows.ended.filter(|row| row.state == wanted) {
            return if row.result.as_ref() == result {
                Ok(None)
            } else {
                Err(OrderError::OtherResult(name.to_owned()))
            };
        }
        self.open_to_orders(task_id, verb)?;
        let Ok(state) = rows.state().after(event) else {
            return Err(self.step_is(task_id, name, step, verb));
        };
        // All refusals by state come before the evaluation, which is requested only for a command
        // that can succeed.
        if let Some(request) = self.lacks(task_id, step, result.map(String::as_str), input) {
            return Ok(Some(request));
        }
        match &input.verdicts.answer {
            Some(ResultVerdict::Wrong(wrong)) => {
                return Err(OrderError::Unfit {
                    step: name.to_owned(),
                    violations: wrong.violations.clone(),
                });
            }
            Some(ResultVerdict::Plan(planning)) => self.plan(task_id, planning),
            Some(ResultVerdict::Fits) | None => {}
        }
        // From here on the command is accepted.
        self.go_on(task_id, &who)?;
        self.begin(task_id);
        self.write_set(task_id, step, (state, result.cloned()), rows, who);
        self.unlock(task_id, step, true, &input.verdicts);
        Ok(None)
    }

    fn write_set(
        &mut self,
        task_id: Uuid,
        step: i16,
        (state, result): (StepState, Option<String>),
        rows: StepRows<'_>,
        (by, reason): (String, String),
    ) {
        let (attempt, charged) = rows.attempts();
        let set = SetStep {
            task_id,
            step,
            state,
            in_queue: rows.live.is_some(),
            attempt,
            charged,
            ready_at: rows.ready_at().unwrap_or(self.now).min(self.now),
            started_at: rows.ended.and_then(|row| row.started_at),
            result,
            failure: rows.ended.and_then(|row| row.failure.clone()),
            by,
            reason,
        };
        let template_id = self
            .tasks
            .get(&task_id)
            .map_or(0, |task| task.row.template_id);
        self.changes.events.push(Event {
            failure: None,
            ..set_step_event(&set, template_id)
        });
        self.changes.set_steps.push(set);
        if self.live.remove(&(task_id, step)).is_some() {
            self.leaves_play(task_id);
        }
        // The step no longer counts as failed, so the task's first failure may be another one.
        self.ended.remove(&(task_id, step));
        self.first_failure(task_id);
    }
}
