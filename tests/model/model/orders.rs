//! Operators' orders about tasks and templates: whether the state permits them, and their effects.

use tasker::{
    domain::order::Order,
    proto::{AttemptOutcome, StepState, TaskState},
};
use tonic::Code;

use super::{Action, Model, Owed, Step, Task, Wrong, pick, result};
use crate::{op::Word, shapes::SHAPES};

/// The answer to an order that does not fit the state; it changes nothing.
const REFUSED: Result<(), Code> = Err(Code::FailedPrecondition);

impl Task {
    fn is_over(&self) -> bool {
        !matches!(self.state, TaskState::Pending | TaskState::InProgress)
    }

    /// A failed task can be reopened.
    fn can_go_on(&self) -> bool {
        !self.is_over() || self.state == TaskState::Error
    }

    fn steps_in(&self, state: StepState) -> Vec<usize> {
        (0..self.steps.len())
            .filter(|step| self.steps[*step].state == state)
            .collect()
    }
}

impl Model {
    /// Whether a pause keeps the task's steps from starting.
    pub(super) fn is_paused(&self, task: usize) -> bool {
        let t = &self.tasks[task];
        t.paused || self.held.contains("") || self.held.contains(t.shape.name)
    }

    pub(super) fn hold(&mut self, template: Option<usize>, held: bool) -> (String, Action) {
        let name = template.map_or("", |template| SHAPES[template].name);
        let known =
            template.is_none_or(|t| self.templates.keys().any(|(template, _)| *template == t));
        let expected = match held {
            true if !known => Err(Code::NotFound),
            true => {
                self.held.insert(name);
                Ok(true)
            }
            false => Ok(self.held.remove(name)),
        };
        let words = if held { "pause" } else { "lift the pause of" };
        (
            format!("{words} template '{name}'"),
            Action::Hold {
                name,
                held,
                expected,
            },
        )
    }

    pub(super) fn tell(&mut self, word: Word, task: usize, step: usize) -> (String, Action) {
        if self.tasks.is_empty() {
            let order = order_of(word, "a");
            let words = format!("{order:?} of a task that does not exist");
            return (
                words,
                Action::Order {
                    task: None,
                    order,
                    expected: Err(Code::NotFound),
                },
            );
        }
        let task = self.one_for(word, task);
        let t = &self.tasks[task];
        let failed = if step.is_multiple_of(2) {
            t.steps_in(StepState::Error)
        } else {
            Vec::new()
        };
        let step = pick(step / 2, &failed).unwrap_or(step % t.steps.len());
        let order = order_of(word, t.shape.steps[step].name);
        let expected = match word {
            Word::Cancel => self.cancel(task),
            Word::Pause | Word::Resume => self.pause(task, word == Word::Pause),
            Word::Retry { fresh } => self.retry(task, None, fresh),
            Word::RetryStep { fresh } => self.retry(task, Some(step), fresh),
            Word::ResolveStep(n) => self.set(task, step, StepState::ResolvedManually, result(n)),
            Word::Skip => self.set(task, step, StepState::Skipped, String::new()),
            Word::ResolveTask => self.give_up(task),
        };
        (
            format!("{order:?} of task {task}"),
            Action::Order {
                task: Some(task),
                order,
                expected,
            },
        )
    }

    /// Prefers a task that the order applies to; now and then any task.
    fn one_for(&self, word: Word, n: usize) -> usize {
        let can = |t: &Task| match word {
            Word::Cancel => true,
            Word::Pause => !t.is_over() && !t.paused,
            Word::Resume => t.can_go_on() && t.paused,
            Word::ResolveTask => t.state == TaskState::Error,
            _ => t.can_go_on() && !t.steps_in(StepState::Error).is_empty(),
        };
        let all: Vec<usize> = (0..self.tasks.len())
            .filter(|task| can(&self.tasks[*task]))
            .collect();
        let one = if n.is_multiple_of(4) {
            None
        } else {
            pick(n, &all)
        };
        one.unwrap_or(n % self.tasks.len())
    }

    fn cancel(&mut self, task: usize) -> Result<(), Code> {
        if self.tasks[task].state == TaskState::Cancelled {
            return Ok(());
        }
        if self.tasks[task].is_over() {
            return REFUSED;
        }
        for attempt in
            self.attempts_where(|a| a.task == task && a.outcome == AttemptOutcome::Running)
        {
            if self.wrong == Wrong::CancelledRunsOn {
                continue;
            }
            self.attempts[attempt].outcome = AttemptOutcome::Cancelled;
            let worker = self.attempts[attempt].worker;
            self.workers[worker].held.retain(|a| *a != attempt);
            self.owed.push(Owed::Cancel { worker, attempt });
        }
        let t = &mut self.tasks[task];
        t.state = TaskState::Cancelled;
        let goes_on = |s: &&mut Step| s.is_live() || s.state == StepState::Pending;
        t.steps
            .iter_mut()
            .filter(goes_on)
            .for_each(|s| s.state = StepState::Cancelled);
        Ok(())
    }

    /// Running attempts go on to their end.
    fn pause(&mut self, task: usize, paused: bool) -> Result<(), Code> {
        let t = &mut self.tasks[task];
        if t.is_over() {
            return REFUSED;
        }
        t.paused = paused || (t.paused && self.wrong == Wrong::PausedForGood);
        Ok(())
    }

    /// Retries one failed step, or all of them.
    fn retry(&mut self, task: usize, only: Option<usize>, fresh: bool) -> Result<(), Code> {
        let t = &mut self.tasks[task];
        if !t.can_go_on() {
            return REFUSED;
        }
        let mut meant = t.steps_in(StepState::Error);
        meant.retain(|step| only.is_none_or(|only| only == *step));
        if meant.is_empty() {
            // The same order was given before, and the step has not ended since.
            let again = |(i, s): (usize, &Step)| {
                only.is_none_or(|only| only == i) && s.retried && s.is_live()
            };
            return if t.steps.iter().enumerate().any(again) {
                Ok(())
            } else {
                REFUSED
            };
        }
        t.state = TaskState::InProgress;
        t.failures.retain(|step| !meant.contains(step));
        for step in meant {
            let s = &mut t.steps[step];
            (s.state, s.retried) = (StepState::Ready, true);
            if fresh || self.wrong == Wrong::RetriedIsNew {
                s.charged = 0;
            }
            s.forgiven = s.attempts.len().saturating_sub(s.charged);
        }
        Ok(())
    }

    /// Sets a step that does not run to a state in which it counts as done.
    fn set(
        &mut self,
        task: usize,
        step: usize,
        state: StepState,
        result: String,
    ) -> Result<(), Code> {
        let t = &mut self.tasks[task];
        let (can_go_on, s) = (t.can_go_on(), &mut t.steps[step]);
        if s.state == state {
            return if s.result == result { Ok(()) } else { REFUSED };
        }
        let waits = matches!(
            s.state,
            StepState::Pending | StepState::Ready | StepState::WaitingForRetry
        );
        if !can_go_on || !(waits || s.state == StepState::Error) {
            return REFUSED;
        }
        s.had_failed = s.state == StepState::Error;
        (s.state, s.result) = (state, result);
        t.state = TaskState::InProgress;
        t.failures.retain(|failed| *failed != step);
        self.follow(task, step);
        Ok(())
    }

    /// A failed task is resolved as it is.
    fn give_up(&mut self, task: usize) -> Result<(), Code> {
        let t = &mut self.tasks[task];
        match t.state {
            TaskState::Error | TaskState::ResolvedManually => t.state = TaskState::ResolvedManually,
            _ => return REFUSED,
        }
        Ok(())
    }
}

fn order_of(word: Word, step: &str) -> Order {
    let step = step.to_owned();
    match word {
        Word::Cancel => Order::Cancel,
        Word::Pause => Order::Pause,
        Word::Resume => Order::Resume,
        Word::Retry { fresh } => Order::Retry { step: None, fresh },
        Word::RetryStep { fresh } => Order::Retry {
            step: Some(step),
            fresh,
        },
        Word::ResolveStep(n) => Order::ResolveStep {
            step,
            result: result(n),
        },
        Word::ResolveTask => Order::ResolveTask,
        Word::Skip => Order::Skip { step },
    }
}
