//! Documents are returned byte for byte as they were stored.

use super::{
    history::{Plan, Step, Task},
    index::{Index, at, position},
    violation::Violation,
};
use crate::ledger::Digest;

pub fn check(index: &Index<'_>, found: &mut Vec<Violation>) {
    for step in index.steps.values() {
        result(index, step, found);
    }
    for task in index.tasks.values() {
        let Some(plan) = index.plan(task) else {
            continue;
        };
        for i in 0..plan.steps.len() {
            inputs(index, task, plan, position(i), found);
        }
    }
}

fn result(index: &Index<'_>, step: &Step, found: &mut Vec<Violation>) {
    let key = (step.task, step.step);
    let succeeded = index
        .attempts(key)
        .iter()
        .find(|a| a.outcome == "succeeded");
    let (Some(result), Some(attempt)) = (&step.result, succeeded) else {
        return;
    };
    let returned = index
        .end_of(attempt)
        .and_then(|(_, end)| end.result.as_ref());
    if returned.is_some_and(|returned| *returned != Digest::of(result)) {
        found.push(Violation::ResultChanged {
            task: step.task,
            step: step.step,
            attempt: attempt.attempt,
        });
    }
}

fn inputs(index: &Index<'_>, task: &Task, plan: &Plan, step: i16, found: &mut Vec<Violation>) {
    let attempts = index.attempts((task.id, step));
    if attempts.is_empty() {
        return;
    }
    let context = Digest::of(&task.context);
    let results = plan.steps[at(step)]
        .ancestors
        .iter()
        .filter_map(|ancestor| {
            let row = index.steps.get(&(task.id, position(*ancestor)))?;
            let result = if row.state == "skipped" {
                "null"
            } else {
                row.result.as_deref()?
            };
            Some((plan.steps[*ancestor].name.as_str(), result))
        });
    let results = Digest::of_all(results);
    for attempt in attempts {
        let token = super::index::lease(attempt).to_token();
        for (_, start) in index.starts_of.get(token.as_str()).into_iter().flatten() {
            let mut changed = |what| {
                let attempt = attempt.attempt;
                found.push(Violation::InputChanged {
                    task: task.id,
                    step,
                    attempt,
                    what,
                });
            };
            if start.context != context {
                changed("context");
            }
            if start.results != results {
                changed("set of results");
            }
        }
    }
}
