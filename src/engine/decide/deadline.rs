//! Deadlines of attempts and of tasks, by the transaction's clock.

use uuid::Uuid;

use super::decision::Decision;
use crate::{
    domain::{attempt::Outcome, lease::Lease, order::DEADLINE_EXCEEDED, task::TaskEvent},
    engine::{dispatch::message::CancelReason, evaluate::verdicts::Verdicts},
    store::pipeline::Mark,
};

impl Decision<'_> {
    pub(super) fn deadline(&mut self, lease: Lease) {
        match self.row(lease).map(|row| row.deadline_at) {
            Some(at) if at.is_some_and(|at| at <= self.now) => {
                let expires_at = self
                    .tasks
                    .get(&lease.task_id)
                    .and_then(|task| task.row.expires_at);
                if expires_at.is_some_and(|at| at <= self.now) {
                    // The whole task expires, which needs locks on all of its queue rows.
                    self.expiring.push(lease.task_id);
                } else if self.end_attempt(lease, &Outcome::TimedOut, None, &Verdicts::default()) {
                    self.settled.insert(lease, false);
                    self.cancelled.push((lease, CancelReason::TimedOut));
                }
            }
            Some(_) => {}
            // The attempt has ended, but its worker may not have been notified, for example after a
            // commit of uncertain outcome.
            None => self.cancelled.push((lease, CancelReason::LeaseLost)),
        }
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
}
