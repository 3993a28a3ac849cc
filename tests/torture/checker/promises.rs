//! The answers that clients received match the database.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{
    history::{Intent, Task, Told},
    index::Index,
    violation::Violation,
};

pub fn check(index: &Index<'_>, found: &mut Vec<Violation>) {
    submits(index, found);
    tasks(index, found);
    batches(index, found);
    for told in &index.history.told {
        let state = |task| {
            index
                .tasks
                .get(task)
                .map_or("missing", |t| t.state.as_str())
                .to_owned()
        };
        match told {
            Told::Ended { task, state: seen }
                if state(task) != *seen && !(seen == "error" && goes_on(index, *task)) =>
            {
                found.push(Violation::EndChanged {
                    task: *task,
                    seen: seen.clone(),
                    state: state(task),
                });
            }
            Told::Nothing { what, seconds } => {
                found.push(Violation::Unanswered {
                    what: what.clone(),
                    seconds: *seconds,
                });
            }
            Told::Refused {
                what,
                code,
                message,
            } => found.push(Violation::RefusedForNoReason {
                what: what.clone(),
                code: code.clone(),
                message: message.clone(),
            }),
            _ => {}
        }
    }
}

/// Whether an operator reopened or resolved the task after it had failed.
fn goes_on(index: &Index<'_>, task: Uuid) -> bool {
    let events = index.events.get(&task).map_or(&[][..], Vec::as_slice);
    events
        .iter()
        .any(|e| matches!(e.kind.as_str(), "task.reopened" | "task.resolved"))
}

fn submits(index: &Index<'_>, found: &mut Vec<Violation>) {
    let mut by_intent: BTreeMap<u64, Vec<(Uuid, bool)>> = BTreeMap::new();
    for told in &index.history.told {
        if let Told::Submitted { n, task, created } = told {
            by_intent.entry(*n).or_default().push((*task, *created));
        }
    }
    for (n, told) in by_intent {
        for (task, _) in &told {
            if index.tasks.get(task).is_none_or(|t| number(t) != Some(n)) {
                found.push(Violation::TaskLost { n, task: *task });
            }
        }
        if index
            .history
            .intents
            .get(&n)
            .is_none_or(|intent| intent.key.is_none())
        {
            continue;
        }
        let first = told[0].0;
        if let Some((second, _)) = told.iter().find(|(task, _)| *task != first) {
            found.push(Violation::KeyWithTwoTasks {
                n,
                first,
                second: *second,
            });
        }
        let times = told.iter().filter(|(_, created)| *created).count();
        if times > 1 {
            found.push(Violation::KeyCreatedTwice { n, times });
        }
    }
}

/// Each task belongs to a submit of the client.
fn tasks(index: &Index<'_>, found: &mut Vec<Violation>) {
    let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
    for task in index.tasks.values() {
        let intent = number(task).and_then(|n| Some((n, index.history.intents.get(&n)?)));
        let known = intent.filter(|(_, intent)| {
            index
                .plan(task)
                .is_some_and(|plan| plan.name == intent.template)
        });
        let Some((n, intent)) = known else {
            found.push(Violation::StrangeTask {
                task: task.id,
                correlation_id: task.correlation_id.clone(),
            });
            continue;
        };
        *counts.entry(n).or_default() += 1;
        if task.context != intent.context {
            found.push(Violation::ContextChanged { task: task.id });
        }
    }
    for (n, count) in counts {
        let asked = index
            .history
            .intents
            .get(&n)
            .map_or(0, |i| if i.key.is_some() { 1 } else { i.tries });
        if count > usize::try_from(asked).unwrap_or(usize::MAX) {
            found.push(Violation::TooManyTasks {
                n,
                found: count,
                asked,
            });
        }
    }
}

fn batches(index: &Index<'_>, found: &mut Vec<Violation>) {
    let mut batches: BTreeMap<u64, (usize, usize)> = BTreeMap::new();
    let of = |n: u64| {
        index
            .history
            .intents
            .get(&n)
            .and_then(|intent: &Intent| intent.batch)
    };
    for batch in index
        .history
        .intents
        .values()
        .filter_map(|intent| intent.batch)
    {
        batches.entry(batch).or_default().0 += 1;
    }
    for batch in index.tasks.values().filter_map(|task| of(number(task)?)) {
        batches.entry(batch).or_default().1 += 1;
    }
    for (batch, (asked, stored)) in batches {
        if stored != 0 && stored != asked {
            found.push(Violation::TornBatch {
                batch,
                found: stored,
                asked,
            });
        }
    }
}

/// The client's number of a task.
fn number(task: &Task) -> Option<u64> {
    task.correlation_id.strip_prefix("n-")?.parse().ok()
}
