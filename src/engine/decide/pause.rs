//! Pauses and resumes a task.

use uuid::Uuid;

use super::decision::Decision;
use crate::{
    domain::{
        event::EventType,
        order::{Order, OrderError},
    },
    store::pipeline::TaskPause,
};

impl Decision<'_> {
    pub(super) fn pause(&mut self, task_id: Uuid, who: (String, String)) -> Result<(), OrderError> {
        self.hold(task_id, true, Some(who.clone()), Order::Pause.verb())?
            .then(|| self.log(task_id, EventType::TaskPaused, &who));
        Ok(())
    }

    pub(super) fn resume(
        &mut self,
        task_id: Uuid,
        who: (String, String),
    ) -> Result<(), OrderError> {
        if self.hold(task_id, false, None, Order::Resume.verb())? {
            self.log(task_id, EventType::TaskResumed, &who);
            self.wake(task_id);
        }
        Ok(())
    }

    /// Sets the pause mark. Returns whether that changed anything.
    pub(super) fn hold(
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

    pub(super) fn wake(&mut self, task_id: Uuid) {
        let Some(task) = self.tasks.get(&task_id) else {
            return;
        };
        let waiting = self
            .live
            .range((task_id, i16::MIN)..=(task_id, i16::MAX))
            .filter(|(_, row)| row.lease.is_none());
        self.resumed_lanes
            .extend(waiting.map(|((_, step), _)| task.own.plan.lane(step.cast_unsigned())));
    }
}
