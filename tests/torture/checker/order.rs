//! No step starts before its parents have ended: by the database's times, and by the order of the
//! handlers' lines.

use super::{
    history::{Task, is_done},
    index::{Index, position},
    violation::Violation,
};

pub fn check(index: &Index<'_>, found: &mut Vec<Violation>) {
    for task in index.tasks.values() {
        let Some(plan) = index.plan(task) else {
            continue;
        };
        for (step, planned) in plan.steps.iter().enumerate() {
            for parent in &planned.parents {
                edge(index, task, position(step), position(*parent), found);
            }
        }
    }
}

fn edge(index: &Index<'_>, task: &Task, step: i16, parent: i16, found: &mut Vec<Violation>) {
    let attempts = index.attempts((task.id, step));
    let Some(first) = attempts.iter().map(|a| a.started_at).min() else {
        return;
    };
    let mut early = |source_of_it| {
        found.push(Violation::StartedBeforeParent {
            task: task.id,
            step,
            parent,
            source_of_it,
        });
    };
    let row = index.steps.get(&(task.id, parent));
    let ended = row
        .filter(|row| is_done(&row.state))
        .and_then(|row| row.ended_at);
    if ended.is_none_or(|ended| first < ended) {
        early("database");
    }
    let success = index
        .attempts((task.id, parent))
        .iter()
        .find(|a| a.outcome == "succeeded");
    let Some((end, _)) = success.and_then(|success| index.end_of(success)) else {
        return;
    };
    let start = attempts.iter().filter_map(|a| index.start_of(a)).min();
    if start.is_some_and(|start| start < end) {
        early("ledger");
    }
}
