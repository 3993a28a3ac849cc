//! A task in one sentence, and the next steps of an operator.

use super::{Cause, Reason, StepFacts};
use crate::domain::task::TaskState;

/// One sentence about a task, from its steps and their reasons.
pub fn summary(state: TaskState, steps: &[(StepFacts, Vec<Reason>)]) -> String {
    let complete = steps
        .iter()
        .filter(|(step, _)| step.state.is_done())
        .count();
    let first = |wanted: &dyn Fn(&Reason) -> bool| {
        let mut all = steps
            .iter()
            .flat_map(|(step, reasons)| reasons.iter().map(move |reason| (step, reason)));
        all.find(|(_, reason)| wanted(reason))
            .map(|(step, reason)| format!("{}: {}", step.name, reason.message))
    };
    match state {
        TaskState::Complete => format!("complete: all {} steps are", steps.len()),
        TaskState::ResolvedManually => {
            format!(
                "failed, and resolved by an operator with {complete} of {} steps complete",
                steps.len()
            )
        }
        TaskState::Cancelled => format!(
            "cancelled, with {complete} of {} steps complete",
            steps.len()
        ),
        TaskState::Error => format!(
            "failed, with {complete} of {} steps complete; {}",
            steps.len(),
            first(&|reason| reason.cause == Cause::Failed)
                .unwrap_or_else(|| "its deadline passed before its last step was done".into())
        ),
        TaskState::Pending | TaskState::InProgress => {
            // A step that something obstructs is the most informative, then one that runs; a step
            // that waits for its parents follows from these.
            let held = |reason: &Reason| {
                !matches!(
                    reason.cause,
                    Cause::Running | Cause::Parents | Cause::Failed
                )
            };
            let why = first(&held).or_else(|| first(&|reason| reason.cause == Cause::Running));
            format!(
                "{complete} of {} steps are complete; {}",
                steps.len(),
                why.unwrap_or_default()
            )
        }
    }
}

/// The actions that an operator can take, with their commands.
pub fn next(task_id: &str, namespace: &str, steps: &[(StepFacts, Vec<Reason>)]) -> Vec<String> {
    let mut next: Vec<String> = Vec::new();
    let mut add = |text: String| {
        // Many steps share a worker or a service, and need the same advice once.
        if !next.contains(&text) {
            next.push(text);
        }
    };
    for (step, reasons) in steps {
        let service = &step.service.name;
        for reason in reasons {
            match reason.cause {
                Cause::NoWorker => add(format!(
                    "connect a worker with handler {0}; the connected workers: tasker worker list --handler {0}",
                    step.handler
                )),
                Cause::Circuit | Cause::Throttle => add(format!(
                    "see {service} with `tasker circuit get {namespace} {service}`; if it has recovered: tasker circuit reset {namespace} {service} --reason …"
                )),
                Cause::TooLarge => add(format!(
                    "name the results that step {} needs with `inputs` in its template, or connect a worker with handler {} and a larger \
                     `max_assignment_bytes`",
                    step.name, step.handler
                )),
                Cause::Limit => add(format!(
                    "raise the limit: tasker circuit set {namespace} {service} --max-concurrency N (or --per-second N)"
                )),
                Cause::Busy if step.workers.free == 0 => {
                    add(format!("add workers or slots for handler {}", step.handler));
                }
                Cause::Failed => {
                    add(format!(
                        "the errors of all attempts: tasker task get {task_id}"
                    ));
                    add(format!(
                        "retry it, set its result, or skip it: tasker task retry {task_id} --step {0} --reason … \
                         (or resolve --result JSON, or skip)",
                        step.name
                    ));
                }
                Cause::Paused => step
                    .pauses
                    .iter()
                    .for_each(|pause| add(resume(task_id, &pause.of))),
                _ => {}
            }
        }
    }
    next
}

/// The command that ends a pause; `of` is the scope as in [`PauseFacts::of`].
fn resume(task_id: &str, of: &str) -> String {
    let what = match of.split_once(' ') {
        Some(("template" | "namespace", name)) => format!("template resume {name}"),
        _ => format!("task resume {task_id}"),
    };
    format!("resume it: tasker {what} --reason …")
}
