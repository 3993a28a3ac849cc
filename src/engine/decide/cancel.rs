//! Cancels a task.

use uuid::Uuid;

use super::decision::Decision;
use crate::{
    domain::{
        attempt::OutcomeKind,
        event::EventType,
        lease::Lease,
        order::{Order, OrderError},
        step::StepState,
        task::{TaskEvent, TaskState},
    },
    engine::dispatch::message::CancelReason,
    store::pipeline::Event,
};

impl Decision<'_> {
    pub(super) fn cancel(
        &mut self,
        task_id: Uuid,
        who: (String, String),
    ) -> Result<(), OrderError> {
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

    /// Ends a task with all of its queue rows.
    pub(super) fn end_all(&mut self, task_id: Uuid, after: TaskState, why: CancelReason) {
        let Some(task) = self.tasks.get_mut(&task_id) else {
            return;
        };
        (task.progress.state, task.progress.live, task.changed) = (after, 0, true);
        let template_id = task.row.template_id;
        self.changed_tasks.push((task_id, false));
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
}
