//! Reopens failed steps of a task.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{decision::Decision, unlock::new_live};
use crate::{
    domain::{
        event::EventType,
        order::{Order, OrderError},
        step::StepState,
    },
    store::pipeline::{EndedRow, Event, NewLive, Past},
};

impl Decision<'_> {
    pub(super) fn retry(
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

    pub(super) fn is_retried(&self, task_id: Uuid, step: i16) -> bool {
        self.live
            .get(&(task_id, step))
            .is_some_and(|row| row.reopened)
    }

    pub(super) fn reopen(&mut self, row: &EndedRow, fresh: bool, who: &(String, String)) {
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

    /// Recomputes the task's first failed step after one may be gone.
    pub(super) fn first_failure(&mut self, task_id: Uuid) {
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
}
