//! Steps whose assignment is too large for every connected worker.

use super::{decision::Decision, unlock::set_step_event};
use crate::{
    domain::{attempt::Failure, size},
    engine::evaluate::verdicts::Verdicts,
    store::{pipeline::SetStep, stranded::Stranded},
};

impl Decision<'_> {
    /// Fails a waiting step whose assignment is too large, unless a worker has claimed it meanwhile
    /// or its task is paused.
    pub(super) fn too_large(&mut self, stranded: &Stranded) {
        let (task_id, step) = (stranded.task_id, stranded.step);
        let Some(row) = self
            .live
            .get(&(task_id, step))
            .copied()
            .filter(|row| row.lease.is_none())
        else {
            return;
        };
        let Some(task) = self
            .tasks
            .get(&task_id)
            .filter(|task| !task.progress.paused)
        else {
            return;
        };
        let name = task
            .own
            .plan
            .step(step)
            .map_or("", |step| step.name.as_str());
        let set = SetStep {
            in_queue: true,
            attempt: row.attempt,
            charged: row.charged,
            ready_at: row.ready_at.min(self.now),
            by: "size".to_owned(),
            ..SetStep::by_condition(
                task_id,
                step.cast_unsigned(),
                self.now,
                Some(too_large(stranded, name)),
            )
        };
        self.changes
            .events
            .push(set_step_event(&set, task.row.template_id));
        self.changes.set_steps.push(set);
        self.live.remove(&(task_id, step));
        self.changed_tasks.push((task_id, false));
        self.begin(task_id);
        self.leaves_play(task_id);
        self.unlock(task_id, step, false, &Verdicts::default());
    }
}

/// The failure of a step whose assignment exceeds the limit of every connected worker.
fn too_large(step: &Stranded, name: &str) -> Failure {
    let message = format!(
        "the assignment of step {name} has up to {} ({} bytes), and the largest that a connected worker of handler {} takes is {} ({} \
         bytes): give the step fewer results, by `inputs` in its template, or let its workers register a larger `max_assignment_bytes`",
        size::bytes(step.bytes),
        step.bytes,
        step.handler,
        size::bytes(step.largest),
        step.largest,
    );
    Failure::of_server(size::ASSIGNMENT_TOO_LARGE, message).cut()
}
