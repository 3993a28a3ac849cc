//! The beginning and the end of an attempt, and the effects on its step and its task.

use tasker::proto::{AttemptOutcome, StepState, TaskState};

use super::{Attempt, Model, Step, Wrong, context};
use crate::{
    shapes::{HANDLERS, VERSIONS},
    view::AssignmentView,
};

/// The step fails when its attempts were lost this many times.
const MAX_LOST: usize = 10;

impl Model {
    pub fn attempt_name(&self, attempt: usize) -> String {
        let Attempt { task, step, .. } = self.attempts[attempt];
        let steps = &self.tasks[task];
        let number = steps.steps[step]
            .attempts
            .iter()
            .position(|a| *a == attempt)
            .unwrap()
            + 1;
        format!("task {task} {} #{number}", steps.shape.steps[step].name)
    }

    /// The worker is gone; its attempts end with this outcome.
    pub(super) fn gone(&mut self, worker: usize, outcome: AttemptOutcome) {
        self.workers[worker].open = false;
        for attempt in self.workers[worker].held.clone() {
            self.end(attempt, outcome, false);
            self.ending.push(attempt);
        }
    }

    /// Ends an attempt: charges it if need be, and applies the effects to its step and its task.
    /// `draining` is true if the answering worker drains.
    pub(super) fn end(&mut self, attempt: usize, outcome: AttemptOutcome, draining: bool) {
        let Attempt {
            task,
            step,
            worker,
            answered,
            ..
        } = self.attempts[attempt];
        self.workers[worker].held.retain(|a| *a != attempt);
        let limit = self.limit(task, step);
        let s = &mut self.tasks[task].steps[step];
        let charged = match outcome {
            AttemptOutcome::RetryableError | AttemptOutcome::PermanentError => true,
            AttemptOutcome::WorkerLost => self.wrong == Wrong::LossesAreCharged,
            _ => false,
        };
        // Earlier attempts that were not charged, and attempts that were lost.
        let (free, lost) = (
            s.attempts.len().saturating_sub(1 + s.charged + s.forgiven),
            s.lost,
        );
        let undelivered = outcome == AttemptOutcome::Released && !answered;
        s.charged += usize::from(charged);
        s.lost += usize::from(outcome == AttemptOutcome::WorkerLost || undelivered);
        s.surely_ready = false;
        s.state = match outcome {
            AttemptOutcome::Succeeded => StepState::Complete,
            AttemptOutcome::RetryableError if s.charged < limit => StepState::WaitingForRetry,
            // A worker that releases without draining would get the step back at once.
            AttemptOutcome::Released if answered && !draining => StepState::WaitingForRetry,
            // When workers drain or connections break one after the other, the step waits longer
            // each time.
            AttemptOutcome::Released if undelivered && s.lost >= MAX_LOST => StepState::Error,
            AttemptOutcome::Released if undelivered && lost > 0 => StepState::WaitingForRetry,
            AttemptOutcome::Released | AttemptOutcome::Drained if !undelivered && free > 0 => {
                StepState::WaitingForRetry
            }
            AttemptOutcome::Released | AttemptOutcome::Drained => StepState::Ready,
            AttemptOutcome::WorkerLost if s.lost < MAX_LOST => StepState::Ready,
            _ => StepState::Error,
        };
        self.attempts[attempt].outcome = outcome;
        self.attempts[attempt].charged = charged;
        self.follow(task, step);
    }

    pub(super) fn follow(&mut self, task: usize, step: usize) {
        let task = &mut self.tasks[task];
        if task.steps[step].state == StepState::Error {
            task.failures.push(step);
        }
        let is_missed =
            |s: &Step| s.state == StepState::Skipped && self.wrong == Wrong::SkippedIsMissed;
        for (child, shape) in task.shape.steps.iter().enumerate() {
            let done = shape
                .parents
                .iter()
                .map(|p| &task.steps[*p])
                .all(|s| s.is_done() && !is_missed(s));
            if task.steps[child].state == StepState::Pending && done {
                task.steps[child].state = StepState::Ready;
            }
        }
        if !task.steps.iter().any(Step::is_live) {
            task.state = if task.steps.iter().all(Step::is_done) {
                TaskState::Complete
            } else {
                TaskState::Error
            };
        }
    }

    fn limit(&self, task: usize, step: usize) -> usize {
        let limit = self.tasks[task].shape.steps[step].limit;
        if self.wrong == Wrong::OneAttemptLess {
            limit.saturating_sub(1).max(1)
        } else {
            limit
        }
    }

    /// A worker got a step. Returns the position of the new attempt.
    pub fn assigned(
        &mut self,
        worker: usize,
        task: usize,
        step: &str,
        got: &AssignmentView,
    ) -> Result<usize, String> {
        let Some(t) = self.tasks.get(task) else {
            return Err(format!("an assignment of an unknown task: {got:?}"));
        };
        let Some(step) = t.shape.steps.iter().position(|s| s.name == step) else {
            return Err(format!("task {task} has no step {step}"));
        };
        let (shape, s, w) = (&t.shape.steps[step], &t.steps[step], &self.workers[worker]);
        let what = format!("worker {worker} was handed task {task} {}", shape.name);
        if self.shut[shape.handler] {
            return Err(format!("{what}, while the circuit was open"));
        }
        if self.is_paused(task) {
            return Err(format!("{what}, while that was paused"));
        }
        if !matches!(s.state, StepState::Ready | StepState::WaitingForRetry) {
            return Err(format!("{what}, which is {:?}", s.state));
        }
        if !w.is_free() || !w.serves(shape.handler) {
            let (held, slots, handlers) = (w.held.len(), w.slots, w.handlers);
            return Err(format!(
                "{what}, but has {held} of {slots} steps, draining {}, handlers {handlers:02b}",
                w.draining
            ));
        }
        let expected = self.assignment(task, step);
        if *got != expected {
            return Err(format!(
                "{what}:\n  expected {expected:?}\n  got      {got:?}"
            ));
        }
        let attempt = self.attempts.len();
        let running = AttemptOutcome::Running;
        self.attempts.push(Attempt {
            task,
            step,
            worker,
            outcome: running,
            charged: false,
            answered: false,
        });
        self.workers[worker].held.push(attempt);
        let t = &mut self.tasks[task];
        t.state = TaskState::InProgress;
        t.steps[step].state = StepState::InProgress;
        t.steps[step].attempts.push(attempt);
        self.wave.push((worker, task, step));
        Ok(attempt)
    }

    /// The content of the expected assignment.
    pub(super) fn assignment(&self, task: usize, step: usize) -> AssignmentView {
        let t = &self.tasks[task];
        let (shape, s) = (&t.shape.steps[step], &t.steps[step]);
        let done = t
            .shape
            .ancestors(step)
            .into_iter()
            .filter(|p| t.steps[*p].is_done());
        let result = |s: &Step| match s.state {
            StepState::Skipped => "null".to_owned(),
            StepState::ResolvedManually if self.wrong == Wrong::GivenIsUnseen => "null".to_owned(),
            _ => s.result.clone(),
        };
        AssignmentView {
            template: format!("{} {}", t.shape.name, VERSIONS[t.version]),
            handler: HANDLERS[shape.handler].to_owned(),
            attempt: s.attempts.len() + 1,
            charged: s.charged,
            limit: shape.limit,
            context: context(t.context),
            results: done
                .map(|p| (t.shape.steps[p].name.to_owned(), result(&t.steps[p])))
                .collect(),
        }
    }

    pub fn place(&self, attempt: usize) -> (usize, &'static str, usize) {
        let Attempt { task, step, .. } = self.attempts[attempt];
        let t = &self.tasks[task];
        let number = t.steps[step]
            .attempts
            .iter()
            .position(|a| *a == attempt)
            .unwrap();
        (task, t.shape.steps[step].name, number)
    }
}
