//! Acknowledged orders hold: a paused step does not start, a step set by hand does not run, and
//! every order has its effect.

use tasker::domain::order::Order;
use uuid::Uuid;

use super::{
    history::{Attempt, Event, Held, Micros, Step, Told},
    index::{Index, position},
    violation::Violation,
};

pub fn check(index: &Index<'_>, found: &mut Vec<Violation>) {
    for told in &index.history.told {
        match told {
            Told::Ordered { task, order } => {
                found.extend(instead(index, *task, order).map(|instead| {
                    Violation::OrderForgotten {
                        task: *task,
                        verb: order.verb(),
                        instead,
                    }
                }));
            }
            Told::Paused { held, from, until } => paused(index, held, *from, *until, found),
            _ => {}
        }
    }
    for (task, events) in &index.events {
        pauses(*task, events, found);
    }
    for (key, row) in index.steps.iter().filter(|(_, row)| row.is_set()) {
        let set_at = row.ended_at.unwrap_or(Micros::MAX);
        let late = index
            .attempts(*key)
            .iter()
            .filter(|a| a.started_at > set_at);
        found.extend(late.map(|a| Violation::StartedAfterSet {
            task: key.0,
            step: key.1,
            attempt: a.attempt,
        }));
    }
}

/// The actual state, if it differs from the ordered one.
fn instead(index: &Index<'_>, id: Uuid, order: &Order) -> Option<String> {
    let Some(task) = index.tasks.get(&id) else {
        return Some("is not there".to_owned());
    };
    let named = |name: &str| -> Option<&Step> {
        let at = index
            .plan(task)?
            .steps
            .iter()
            .position(|step| step.name == name)?;
        index.steps.get(&(id, position(at))).copied()
    };
    let is = |wanted: &str| (task.state != wanted).then(|| format!("is {}", task.state));
    let told = |kind: &str| {
        let events = index.events.get(&id).map_or(&[][..], Vec::as_slice);
        (!events.iter().any(|e| e.kind == kind)).then(|| format!("has no event {kind}"))
    };
    let stands = |name: &str, wanted: &str, result: Option<&String>| {
        let row = named(name)?;
        let is_right = row.state == wanted && row.result.as_ref() == result;
        (!is_right).then(|| format!("its step {name} is {} with {:?}", row.state, row.result))
    };
    match order {
        Order::Cancel => is("cancelled"),
        Order::ResolveTask => is("resolved_manually"),
        Order::Pause => told("task.paused"),
        // The task may not have been paused.
        Order::Resume => None,
        Order::Retry { .. } => told("step.reopened"),
        Order::ResolveStep { step, result } => stands(step, "resolved_manually", Some(result)),
        Order::Skip { step } => stands(step, "skipped", None),
    }
}

fn paused(index: &Index<'_>, held: &Held, from: Micros, until: Micros, found: &mut Vec<Violation>) {
    let is_held = |a: &&Attempt| match held {
        Held::Task(task) => a.task == *task,
        Held::Templates(name) => {
            let plan = index.tasks.get(&a.task).and_then(|task| index.plan(task));
            plan.is_some_and(|plan| {
                plan.name == *name || (name.ends_with('/') && plan.name.starts_with(name))
            })
        }
    };
    let inside = index
        .history
        .attempts
        .iter()
        .filter(|a| a.started_at > from && a.started_at < until);
    found.extend(
        inside
            .filter(is_held)
            .map(|a| Violation::StartedWhilePaused {
                task: a.task,
                step: a.step,
                attempt: a.attempt,
                what: format!("{held:?}"),
                source_of_it: "clients",
            }),
    );
}

/// By the events of a task alone, whatever the clients were answered.
fn pauses(task: Uuid, events: &[&Event], found: &mut Vec<Violation>) {
    let mut paused = false;
    for event in events {
        match event.kind.as_str() {
            "task.paused" | "task.resumed" => {
                let pauses = event.kind == "task.paused";
                if pauses == paused {
                    found.push(Violation::PausedTwice {
                        task,
                        kind: event.kind.clone(),
                    });
                }
                paused = pauses;
            }
            "step.started" => {
                let (step, attempt) = (
                    event.step.unwrap_or_default(),
                    event.attempt.unwrap_or_default(),
                );
                if paused {
                    let (what, source_of_it) = ("its task".to_owned(), "events");
                    found.push(Violation::StartedWhilePaused {
                        task,
                        step,
                        attempt,
                        what,
                        source_of_it,
                    });
                }
            }
            _ => {}
        }
    }
}
