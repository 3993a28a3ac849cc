//! Every task is final, and the states of its steps match the task's state.

use super::{
    history::{Plan, Task, is_done},
    index::{Index, position},
    violation::Violation,
};

pub fn check(index: &Index<'_>, found: &mut Vec<Violation>) {
    for task in index.tasks.values() {
        if !["complete", "error", "cancelled", "resolved_manually"].contains(&task.state.as_str()) {
            found.push(Violation::NotFinal {
                task: task.id,
                state: task.state.clone(),
            });
        } else if let Some(plan) = index.plan(task) {
            steps(index, task, plan, found);
            times(index, task, found);
        }
    }
}

fn steps(index: &Index<'_>, task: &Task, plan: &Plan, found: &mut Vec<Violation>) {
    let state = |step: usize| {
        index
            .steps
            .get(&(task.id, position(step)))
            .map_or("missing", |s| s.state.as_str())
    };
    let mut failed = 0;
    for (i, planned) in plan.steps.iter().enumerate() {
        let state_of_step = state(i);
        failed += usize::from(state_of_step == "error");
        let unlocked = planned.parents.iter().all(|parent| is_done(state(*parent)));
        let right = match (task.state.as_str(), state_of_step) {
            ("complete", state) => is_done(state),
            // Only a step behind a failed one may be left pending.
            ("error" | "resolved_manually", "pending") => !unlocked,
            (_, "complete" | "error" | "skipped" | "resolved_manually") => unlocked,
            ("cancelled", "cancelled") => true,
            _ => false,
        };
        if !right {
            let what = format!("{state_of_step} in a task that is {}", task.state);
            found.push(Violation::StepStateWrong {
                task: task.id,
                step: position(i),
                what,
            });
        }
    }
    if ["error", "resolved_manually"].contains(&task.state.as_str()) && failed == 0 {
        let what = format!("{} without a step that failed", task.state);
        found.push(Violation::TaskStateWrong {
            task: task.id,
            what,
        });
    }
    let rows = index
        .steps
        .range((task.id, i16::MIN)..=(task.id, i16::MAX))
        .count();
    if rows != plan.steps.len() {
        let what = format!("{rows} steps of {}", plan.steps.len());
        found.push(Violation::TaskStateWrong {
            task: task.id,
            what,
        });
    }
}

fn times(index: &Index<'_>, task: &Task, found: &mut Vec<Violation>) {
    let mut wrong = |what: &str| {
        found.push(Violation::TaskStateWrong {
            task: task.id,
            what: what.to_owned(),
        });
    };
    let Some(ended_at) = task.ended_at else {
        return wrong("final without an end");
    };
    if task.started_at.is_none() && task.state != "cancelled" {
        wrong("final without a start");
    }
    if task
        .started_at
        .is_some_and(|at| at < task.submitted_at || at > ended_at)
    {
        wrong("started before it was submitted, or after it ended");
    }
    let steps = index.steps.range((task.id, i16::MIN)..=(task.id, i16::MAX));
    if steps
        .filter_map(|(_, step)| step.ended_at)
        .any(|at| at > ended_at)
    {
        wrong("a step ended after its task");
    }
}
