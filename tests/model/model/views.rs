//! The expected view of a task.

use tasker::proto::{AttemptOutcome, StepState, TaskState};

use super::{Attempt, Model, Task};
use crate::{
    shapes::VERSIONS,
    view::{AttemptView, StepView, TaskView},
};

impl Model {
    /// The view of the task that a client must get.
    pub fn view(&self, task: usize) -> TaskView {
        let t = &self.tasks[task];
        let steps: Vec<StepView> = (0..t.steps.len())
            .map(|step| self.step_view(t, step))
            .collect();
        let is_error = matches!(t.state, TaskState::Error | TaskState::ResolvedManually);
        let failed = t.failures.first().filter(|_| is_error);
        // A pause outlives a failure, but no other end.
        let is_over = matches!(
            t.state,
            TaskState::Complete | TaskState::Cancelled | TaskState::ResolvedManually
        );
        TaskView {
            state: t.state,
            template: format!("{} {}", t.shape.name, VERSIONS[t.version]),
            paused: t.paused && !is_over,
            complete: t.steps.iter().filter(|s| s.is_done()).count(),
            failed: failed.map_or_else(Default::default, |f| {
                (steps[*f].name.clone(), steps[*f].code.clone())
            }),
            steps,
        }
    }

    fn step_view(&self, task: &Task, step: usize) -> StepView {
        let (shape, s) = (&task.shape.steps[step], &task.steps[step]);
        let attempt = |(i, a): (usize, &usize)| {
            let Attempt {
                worker,
                outcome,
                charged,
                ..
            } = self.attempts[*a];
            AttemptView {
                number: i + 1,
                outcome,
                charged,
                worker: format!("worker {worker}"),
            }
        };
        let last = s.attempts.last().map(|a| &self.attempts[*a]);
        let code = match last.map(|a| a.outcome) {
            Some(AttemptOutcome::Released) if last.is_some_and(|a| !a.answered) => "UNDELIVERED",
            Some(AttemptOutcome::RetryableError) => "BUSY",
            Some(AttemptOutcome::PermanentError) => "NO",
            Some(AttemptOutcome::WorkerLost) => "WORKER_LOST",
            _ => "",
        };
        let failed =
            s.had_failed || matches!(s.state, StepState::Error | StepState::WaitingForRetry);
        StepView {
            name: shape.name.into(),
            state: s.state,
            attempt: s.attempts.len(),
            charged: s.charged,
            limit: shape.limit,
            result: s.result.clone(),
            code: if failed { code.into() } else { String::new() },
            attempts: s.attempts.iter().enumerate().map(attempt).collect(),
        }
    }
}
