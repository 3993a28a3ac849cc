//! The effects of operator commands and deadlines on a task.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{
    Pending,
    decision::Decision,
    follow::{new_live, told},
    judging::{Answer, Ask},
};
use crate::{
    domain::{
        attempt::{Failure, OutcomeKind},
        event::EventType,
        lease::Lease,
        order::{DEADLINE_EXCEEDED, Order, OrderError},
        step::{StepEvent, StepState},
        task::{TaskEvent, TaskState},
    },
    engine::hub::CancelReason,
    store::pipeline::{EndedRow, Event, LiveRow, Mark, NewLive, Past, SetStep, TaskPause},
};

/// The failure of a task whose deadline passed.
pub(super) fn expired(code: &str) -> Failure {
    Failure::of_server(
        code,
        "the task's deadline passed before its last step was done",
    )
}

impl<'a> Decision<'a> {
    /// Applies a command; or returns the refusal or the evaluation it needs first, with no change
    /// made.
    pub(super) fn order(
        &mut self,
        task_id: Uuid,
        order: &Order,
        who: (String, String),
        input: &Pending,
    ) -> Result<Option<Ask>, OrderError> {
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

    fn state(&self, task_id: Uuid) -> Result<TaskState, OrderError> {
        self.tasks
            .get(&task_id)
            .map(|task| task.progress.state)
            .ok_or(OrderError::NotFound(task_id))
    }

    /// The state after `event`, or the refusal.
    fn after(
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

    fn log(&mut self, task_id: Uuid, kind: EventType, who: &(String, String)) {
        let Some(task) = self.tasks.get_mut(&task_id) else {
            return;
        };
        task.changed = true;
        let event = Event::of_task(kind, task.row.template_id, task_id);
        self.changes.events.push(Event {
            ordered: Some(who.clone()),
            ..event
        });
        self.touched.push((task_id, false));
    }

    fn cancel(&mut self, task_id: Uuid, who: (String, String)) -> Result<(), OrderError> {
        if self.state(task_id)? == TaskState::Cancelled {
            return Ok(());
        }
        let after = self.after(task_id, TaskEvent::Cancel, Order::Cancel.verb())?;
        self.end_all(task_id, after, CancelReason::TaskCancelled);
        if let Some(task) = self.tasks.get_mut(&task_id) {
            task.cancelled = Some(who);
        }
        Ok(())
    }

    /// Expires a task, unless its deadline has not passed by the transaction's clock.
    pub(super) fn expire(&mut self, task_id: Uuid) {
        let Some(task) = self.tasks.get(&task_id) else {
            return self.changes.expired.push(task_id);
        };
        let Ok(after) = task.progress.state.after(TaskEvent::Expire) else {
            return self.changes.expired.push(task_id);
        };
        if task.row.expires_at.is_none_or(|at| at > self.now) {
            return;
        }
        self.end_all(task_id, after, CancelReason::TimedOut);
        let error_code = Some(DEADLINE_EXCEEDED.to_owned());
        self.changes.marks.push(Mark {
            task_id,
            resolved: None,
            error_code,
        });
        self.changes.expired.push(task_id);
    }

    /// Ends a task with all of its queue rows.
    fn end_all(&mut self, task_id: Uuid, after: TaskState, why: CancelReason) {
        let Some(task) = self.tasks.get_mut(&task_id) else {
            return;
        };
        (task.progress.state, task.progress.live, task.changed) = (after, 0, true);
        let template_id = task.row.template_id;
        self.touched.push((task_id, false));
        for row in self.live_of(task_id) {
            self.live.remove(&(task_id, row.step));
            let running = row.lease.map(|nonce| Lease {
                task_id,
                step: row.step,
                nonce,
            });
            self.changes.events.push(Event {
                step: Some(row.step),
                attempt: Some(row.attempt),
                worker_id: row.worker_id,
                outcome: running.map(|_| OutcomeKind::Cancelled),
                charged: running.map(|_| false),
                lease: row.lease,
                ready_at: Some(row.ready_at),
                started_at: row.started_at,
                ..Event::of_task(EventType::StepCancelled, template_id, task_id)
            });
            self.end_step(row, StepState::Cancelled, None, None);
            if let Some(lease) = running {
                self.settled.insert(lease, false);
                self.cancelled.push((lease, why));
            }
        }
    }

    fn pause(&mut self, task_id: Uuid, who: (String, String)) -> Result<(), OrderError> {
        self.hold(task_id, true, Some(who.clone()), Order::Pause.verb())?
            .then(|| self.log(task_id, EventType::TaskPaused, &who));
        Ok(())
    }

    fn resume(&mut self, task_id: Uuid, who: (String, String)) -> Result<(), OrderError> {
        if self.hold(task_id, false, None, Order::Resume.verb())? {
            self.log(task_id, EventType::TaskResumed, &who);
            self.wake(task_id);
        }
        Ok(())
    }

    /// Sets the pause mark. Returns whether that changed anything.
    fn hold(
        &mut self,
        task_id: Uuid,
        paused: bool,
        by: Option<(String, String)>,
        verb: &'static str,
    ) -> Result<bool, OrderError> {
        let state = self.state(task_id)?;
        let Some(task) = self.tasks.get_mut(&task_id) else {
            return Err(OrderError::NotFound(task_id));
        };
        if state.is_final() {
            return Err(OrderError::TaskIs { state, verb });
        }
        if task.progress.paused == paused {
            return Ok(false);
        }
        task.progress.paused = paused;
        self.changes.task_pauses.push(TaskPause { task_id, by });
        Ok(true)
    }

    fn wake(&mut self, task_id: Uuid) {
        let Some(task) = self.tasks.get(&task_id) else {
            return;
        };
        let waiting = self
            .live
            .range((task_id, i16::MIN)..=(task_id, i16::MAX))
            .filter(|(_, row)| row.lease.is_none());
        self.woken
            .extend(waiting.map(|((_, step), _)| task.own.plan.lane(step.cast_unsigned())));
    }

    fn retry(
        &mut self,
        task_id: Uuid,
        step: Option<&str>,
        fresh: bool,
        who: (String, String),
    ) -> Result<(), OrderError> {
        let verb = Order::Retry { step: None, fresh }.verb();
        let state = self.open_to_orders(task_id, verb)?;
        let failed: Vec<&EndedRow> = match step {
            None => self
                .ended_of(task_id)
                .into_iter()
                .filter(|row| row.state == StepState::Error)
                .collect(),
            Some(name) => {
                let at = self.position(task_id, name)?;
                match self.ended.get(&(task_id, at)) {
                    Some(row) if row.state == StepState::Error => vec![*row],
                    // The same command was applied before.
                    _ if self.is_retried(task_id, at) => return Ok(()),
                    _ => return Err(self.step_is(task_id, name, at, verb)),
                }
            }
        };
        if failed.is_empty() {
            let again = self.live_of(task_id).iter().any(|row| row.reopened);
            return if again {
                Ok(())
            } else {
                Err(OrderError::NothingFailed(state))
            };
        }
        self.go_on(task_id, &who)?;
        for row in failed {
            self.reopen(row, fresh, &who);
        }
        self.first_failure(task_id);
        Ok(())
    }

    fn is_retried(&self, task_id: Uuid, step: i16) -> bool {
        self.live
            .get(&(task_id, step))
            .is_some_and(|row| row.reopened)
    }

    fn reopen(&mut self, row: &EndedRow, fresh: bool, who: &(String, String)) {
        let (task_id, step) = (row.task_id, row.step);
        let Some(task) = self.tasks.get_mut(&task_id) else {
            return;
        };
        task.progress.live += 1;
        let past = Some(Past {
            attempt: row.attempt,
            charged: if fresh { 0 } else { row.charged },
        });
        let live = new_live(&task.own, task_id, step.cast_unsigned(), task.priority);
        let (expires_at, paused) = (task.row.expires_at, task.progress.paused);
        self.changes.new_live.push(NewLive {
            past,
            expires_at,
            paused,
            ..live
        });
        self.changes.reopened.push((task_id, step));
        self.ended.remove(&(task_id, step));
        let event = Event::of_task(EventType::StepReopened, task.row.template_id, task_id);
        self.changes.events.push(Event {
            step: Some(step),
            ordered: Some(who.clone()),
            ..event
        });
    }

    /// Resolves a step with a result, or skips it.
    #[expect(
        clippy::too_many_lines,
        reason = "what is checked before a step is set, in the order of the refusals"
    )]
    fn set(
        &mut self,
        task_id: Uuid,
        name: &str,
        order: &Order,
        who: (String, String),
        input: &Pending,
    ) -> Result<Option<Ask>, OrderError> {
        let (step, verb) = (self.position(task_id, name)?, order.verb());
        let result = match order {
            Order::ResolveStep { result, .. } => Some(result),
            _ => None,
        };
        let (event, wanted) = match result {
            Some(_) => (StepEvent::Resolve, StepState::ResolvedManually),
            None => (StepEvent::Skip, StepState::Skipped),
        };
        let (live, ended) = (
            self.live.get(&(task_id, step)).copied(),
            self.ended.get(&(task_id, step)).copied(),
        );
        // A repeated command succeeds without effect, whatever the task's state is now.
        if let Some(row) = ended.filter(|row| row.state == wanted) {
            let same = row.result.as_ref() == result;
            return if same {
                Ok(None)
            } else {
                Err(OrderError::OtherResult(name.to_owned()))
            };
        }
        self.open_to_orders(task_id, verb)?;
        let before = live
            .map(|row| row.state)
            .or(ended.map(|row| row.state))
            .unwrap_or(StepState::Pending);
        let Ok(state) = before.after(event) else {
            return Err(self.step_is(task_id, name, step, verb));
        };
        // All refusals by state come before the evaluation, which is requested only for a command
        // that can succeed.
        if let Some(ask) = self.lacks(task_id, step, result.map(String::as_str), input) {
            return Ok(Some(ask));
        }
        match &input.verdicts.answer {
            Some(Answer::Wrong(wrong)) => {
                return Err(OrderError::Unfit {
                    step: name.to_owned(),
                    violations: wrong.violations.clone(),
                });
            }
            Some(Answer::Plan(planning)) => self.plan(task_id, planning),
            Some(Answer::Fits) | None => {}
        }
        // From here on the command is accepted.
        self.go_on(task_id, &who)?;
        self.begin(task_id);
        let now = self.now;
        let (by, reason) = who;
        let template_id = self
            .tasks
            .get(&task_id)
            .map_or(0, |task| task.row.template_id);
        let set = SetStep {
            task_id,
            step,
            state,
            in_queue: live.is_some(),
            attempt: live
                .map(|row| row.attempt)
                .or(ended.map(|row| row.attempt))
                .unwrap_or_default(),
            charged: live
                .map(|row| row.charged)
                .or(ended.map(|row| row.charged))
                .unwrap_or_default(),
            ready_at: live
                .map(|row| row.ready_at)
                .or(ended.map(|row| row.ready_at))
                .unwrap_or(now)
                .min(now),
            started_at: ended.and_then(|row| row.started_at),
            result: result.cloned(),
            failure: ended.and_then(|row| row.failure.clone()),
            by,
            reason,
        };
        self.changes.events.push(Event {
            failure: None,
            ..told(&set, template_id)
        });
        self.changes.set_steps.push(set);
        if self.live.remove(&(task_id, step)).is_some() {
            self.leaves_play(task_id);
        }
        // The step no longer counts as failed, so the task's first failure may be another one.
        self.ended.remove(&(task_id, step));
        self.first_failure(task_id);
        self.follow(task_id, step, true, &input.verdicts);
        Ok(None)
    }

    fn resolve(&mut self, task_id: Uuid, who: (String, String)) -> Result<(), OrderError> {
        if self.state(task_id)? == TaskState::ResolvedManually {
            return Ok(());
        }
        let after = self.after(task_id, TaskEvent::Resolve, Order::ResolveTask.verb())?;
        if let Some(task) = self.tasks.get_mut(&task_id) {
            (task.progress.state, task.changed) = (after, true);
            let error_code = task.row.error_code.clone();
            self.changes.marks.push(Mark {
                task_id,
                resolved: Some(who),
                error_code,
            });
            self.touched.push((task_id, false));
        }
        Ok(())
    }

    /// The state of a task that accepts commands on its steps.
    fn open_to_orders(&self, task_id: Uuid, verb: &'static str) -> Result<TaskState, OrderError> {
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
    fn go_on(&mut self, task_id: Uuid, who: &(String, String)) -> Result<(), OrderError> {
        if let Ok(after) = self.state(task_id)?.after(TaskEvent::Reopen) {
            self.log(task_id, EventType::TaskReopened, who);
            self.tasks
                .entry(task_id)
                .and_modify(|task| task.progress.state = after);
        }
        if let Some(task) = self.tasks.get_mut(&task_id) {
            task.changed = true;
        }
        self.touched.push((task_id, false));
        Ok(())
    }

    /// Recomputes the task's first failed step after one may be gone.
    fn first_failure(&mut self, task_id: Uuid) {
        let rest: BTreeMap<i16, ()> = self
            .ended_of(task_id)
            .into_iter()
            .filter(|row| row.state == StepState::Error)
            .map(|row| (row.step, ()))
            .collect();
        let Some(task) = self.tasks.get_mut(&task_id) else {
            return;
        };
        let still = task
            .progress
            .failed_step
            .filter(|step| rest.contains_key(&step.cast_signed()));
        task.progress.failed_step = still.or(rest
            .first_key_value()
            .map(|(step, ())| step.cast_unsigned()));
    }

    fn position(&self, task_id: Uuid, name: &str) -> Result<i16, OrderError> {
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

    fn step_is(&self, task_id: Uuid, name: &str, step: i16, verb: &'static str) -> OrderError {
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

    fn live_of(&self, task_id: Uuid) -> Vec<&'a LiveRow> {
        self.live
            .range((task_id, i16::MIN)..=(task_id, i16::MAX))
            .map(|(_, row)| *row)
            .collect()
    }

    fn ended_of(&self, task_id: Uuid) -> Vec<&'a EndedRow> {
        self.ended
            .range((task_id, i16::MIN)..=(task_id, i16::MAX))
            .map(|(_, row)| *row)
            .collect()
    }
}
