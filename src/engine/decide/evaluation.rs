//! The evaluations that an input needs before it can be decided on.

use std::sync::Arc;

use uuid::Uuid;

use super::{decision::Decision, input::PendingInput};
use crate::{
    domain::{
        attempt::Outcome,
        lease::Lease,
        progress::{Fate, Progress, StepSet},
    },
    engine::{
        evaluate::verdicts::{EvaluationRequest, ResultVerdict, Verdicts},
        plan::task_plan::TaskPlan,
    },
    store::pipeline::TaskRow,
};

/// Maximum evaluations of one input. Each but the first means that another input of its task was
/// settled during the evaluation.
pub(super) const MAX_ROUNDS: usize = 64;

impl Decision<'_> {
    /// The evaluation that a result needs before it can end its attempt.
    pub(super) fn unjudged(
        &self,
        lease: Lease,
        outcome: &Outcome,
        input: &PendingInput,
    ) -> Option<EvaluationRequest> {
        let Outcome::Succeeded(result) = outcome else {
            return None;
        };
        self.row(lease)?;
        self.lacks(lease.task_id, lease.step, Some(result), input)
    }

    /// The evaluation that is missing before a step may be done: of its result, and of the
    /// conditions of the steps that it unlocks.
    ///
    /// After `MAX_ROUNDS` evaluations, each overtaken by a change of the task, the input is not
    /// evaluated again: missing verdicts then count as failures.
    pub(super) fn lacks(
        &self,
        task_id: Uuid,
        step: i16,
        result: Option<&str>,
        input: &PendingInput,
    ) -> Option<EvaluationRequest> {
        let task = self.tasks.get(&task_id)?;
        let (plan, verdicts) = (task.own.plan, &input.verdicts);
        let judges_result = result.is_some() && plan.judges_result(step);
        if !judges_result && !plan.is_conditional() || input.rounds >= MAX_ROUNDS {
            return None;
        }
        let holds = !task.planned && verdicts.are_about(task.row);
        let complete = match &verdicts.answer {
            Some(ResultVerdict::Wrong(_)) => true,
            Some(ResultVerdict::Plan(planning)) => {
                let own = TaskPlan {
                    plan,
                    settings: planning.settings.clone(),
                };
                holds && Self::all_judged(&own, &task.progress, step, verdicts)
            }
            answer => {
                let answered = !judges_result || answer.is_some();
                let none = Verdicts::default();
                answered
                    && Self::all_judged(
                        &task.own,
                        &task.progress,
                        step,
                        if holds { verdicts } else { &none },
                    )
            }
        };
        if complete {
            return None;
        }
        let mut row = TaskRow {
            progress: task.progress.clone(),
            priority: task.priority,
            ..task.row.clone()
        };
        if task.planned {
            let planned = self
                .changes
                .planned
                .iter()
                .rfind(|planned| planned.task_id == task_id);
            row.settings = planned
                .map(|planned| Arc::from(planned.settings.as_str()))
                .or(row.settings);
        }
        Some(EvaluationRequest {
            plan: Arc::clone(self.plans.get(&task.row.template_id)?),
            row,
            step,
        })
    }

    /// Whether every condition that is decided by the end of this step has a verdict.
    pub(super) fn all_judged(
        own: &TaskPlan<'_>,
        progress: &Progress,
        step: i16,
        verdicts: &Verdicts,
    ) -> bool {
        if !own.plan.is_conditional() {
            return true;
        }
        let mut complete = true;
        let mut fate = |done: &StepSet, child: u16| {
            let known = own
                .unconditional(child)
                .or_else(|| verdicts.fate(own.plan, done, child).cloned());
            complete = complete && known.is_some();
            known.unwrap_or(Fate::Runs)
        };
        progress
            .clone()
            .step_ended(&own.plan.graph, step.cast_unsigned(), true, &mut fate);
        complete
    }
}
