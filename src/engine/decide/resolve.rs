//! Resolves a failed task.

use uuid::Uuid;

use super::decision::Decision;
use crate::{
    domain::{
        order::{Order, OrderError},
        task::{TaskEvent, TaskState},
    },
    store::pipeline::Mark,
};

impl Decision<'_> {
    pub(super) fn resolve(
        &mut self,
        task_id: Uuid,
        who: (String, String),
    ) -> Result<(), OrderError> {
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
            self.changed_tasks.push((task_id, false));
        }
        Ok(())
    }
}
