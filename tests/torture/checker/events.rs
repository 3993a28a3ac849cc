//! The event log holds each transition exactly once, with causes before effects, and no other
//! events.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{
    history::{Event, Plan, Task, is_set},
    index::{Index, at, position},
    violation::Violation,
};
use crate::poison;

/// The answer to an attempt that had already ended.
const ANSWERED_LATE: &str = "step.answered_late";

pub fn check(index: &Index<'_>, found: &mut Vec<Violation>) {
    for (task, events) in &index.events {
        if !index.tasks.contains_key(task) {
            miscounted(*task, "of any kind", None, (0, events.len()), found);
        }
    }
    for task in index.tasks.values() {
        let events = index.events.get(&task.id).map_or(&[][..], Vec::as_slice);
        of_the_task(task, events, found);
        of_its_steps(index, task, events, found);
        late_answers(index, task, events, found);
        if let Some(plan) = index.plan(task) {
            order(task, plan, events, found);
        }
        times(task, events, found);
    }
}

fn miscounted(
    task: Uuid,
    kind: &str,
    attempt: Option<(i16, i32)>,
    (expected, count): (usize, usize),
    found: &mut Vec<Violation>,
) {
    if expected != count {
        let place = attempt.map_or(String::new(), |(step, attempt)| {
            format!(", of step {step}, attempt {attempt}")
        });
        found.push(Violation::EventsMiscounted {
            task,
            kind: kind.to_owned(),
            place,
            expected,
            found: count,
        });
    }
}

fn of_the_task(task: &Task, events: &[&Event], found: &mut Vec<Violation>) {
    let count = |kind: &str| events.iter().filter(|e| e.kind == kind).count();
    let is = |state: &str| usize::from(task.state == state);
    let due = [
        ("task.submitted", 1),
        ("task.started", usize::from(task.started_at.is_some())),
        ("task.completed", is("complete")),
        (
            "task.failed",
            count("task.reopened") + is("error") + is("resolved_manually"),
        ),
        ("task.cancelled", is("cancelled")),
        ("task.resolved", is("resolved_manually")),
    ];
    for (kind, due) in due {
        miscounted(task.id, kind, None, (due, count(kind)), found);
    }
}

/// A late answer has one event, which refers to an existing attempt.
fn late_answers(index: &Index<'_>, task: &Task, events: &[&Event], found: &mut Vec<Violation>) {
    let mut counts: BTreeMap<(i16, i32), usize> = BTreeMap::new();
    for event in events.iter().filter(|e| e.kind == ANSWERED_LATE) {
        let key = (event.step.unwrap_or(-1), event.attempt.unwrap_or(-1));
        *counts.entry(key).or_default() += 1;
    }
    for ((step, attempt), count) in counts {
        let attempts = index.attempts((task.id, step));
        let due = usize::from(attempts.iter().any(|a| a.attempt == attempt));
        miscounted(
            task.id,
            ANSWERED_LATE,
            Some((step, attempt)),
            (due, count),
            found,
        );
    }
}

/// Each attempt has one start event and one end event with its outcome; a cancelled step has one
/// cancel event.
fn of_its_steps(index: &Index<'_>, task: &Task, events: &[&Event], found: &mut Vec<Violation>) {
    let mut counts: BTreeMap<(i16, i32, &str), (usize, usize)> = BTreeMap::new();
    for event in events
        .iter()
        .filter(|e| e.kind.starts_with("step.") && e.kind != ANSWERED_LATE)
    {
        // The cancel of a waiting step repeats the number of its last attempt, which has an end
        // event of its own.
        let attempt = if event.outcome.is_some() || event.kind == "step.started" {
            event.attempt
        } else {
            None
        };
        let key = (
            event.step.unwrap_or(-1),
            attempt.unwrap_or(-1),
            event.kind.as_str(),
        );
        counts.entry(key).or_default().1 += 1;
    }
    for (key, row) in index.steps.range((task.id, i16::MIN)..=(task.id, i16::MAX)) {
        let attempts = index.attempts(*key);
        for (i, attempt) in attempts.iter().enumerate() {
            let last = i + 1 == attempts.len();
            let end = match (attempt.outcome.as_str(), row.state.as_str()) {
                ("succeeded", _) => "step.completed",
                ("cancelled", _) => "step.cancelled",
                _ if index.reopened(attempt).is_some() => "step.failed",
                (_, "error") if last => "step.failed",
                // The step had failed or waited for its next attempt before an operator set it.
                (_, state)
                    if last
                        && is_set(state)
                        && counts.contains_key(&(key.1, attempt.attempt, "step.failed")) =>
                {
                    "step.failed"
                }
                _ => "step.retrying",
            };
            for kind in ["step.started", end] {
                counts.entry((key.1, attempt.attempt, kind)).or_default().0 += 1;
            }
        }
        for (kind, state) in [
            ("step.resolved", "resolved_manually"),
            ("step.skipped", "skipped"),
        ] {
            counts.entry((key.1, -1, kind)).or_default().0 += usize::from(row.state == state);
        }
        if index.template_of(task.id).is_some_and(poison::is_name) {
            // The server ended the step before its first attempt, and perhaps again after an
            // operator's order.
            let failed = counts.entry((key.1, -1, "step.failed")).or_default();
            failed.0 = failed.1;
        }
        let again = index.reopenings.get(key).copied().unwrap_or_default();
        counts.entry((key.1, -1, "step.reopened")).or_default().0 += again;
        let ended_by_attempt = attempts.last().is_some_and(|a| a.outcome == "cancelled");
        if row.state == "cancelled" && !ended_by_attempt {
            // A step in play has a cancel event; a step that was not yet in play has none.
            let said = counts
                .get(&(key.1, -1, "step.cancelled"))
                .map_or(0, |c| c.1);
            counts.entry((key.1, -1, "step.cancelled")).or_default().0 += said.min(1);
        }
    }
    for ((step, attempt, kind), counts) in counts {
        miscounted(task.id, kind, Some((step, attempt)), counts, found);
    }
}

/// The position of the first event of a kind.
fn first(events: &[&Event], is: &dyn Fn(&Event) -> bool) -> Option<usize> {
    events.iter().position(|e| is(e))
}

/// Reports a cause that comes after its effect, if both events exist.
fn before(
    task: &Task,
    (earlier, a): (String, Option<usize>),
    (later, b): (String, Option<usize>),
    found: &mut Vec<Violation>,
) {
    if let (Some(a), Some(b)) = (a, b)
        && a > b
    {
        found.push(Violation::EventsOutOfOrder {
            task: task.id,
            earlier,
            later,
        });
    }
}

/// Causes come before their effects.
fn order(task: &Task, plan: &Plan, events: &[&Event], found: &mut Vec<Violation>) {
    if let Some(submitted) = first(events, &|e| e.kind == "task.submitted") {
        before(
            task,
            ("task.submitted".into(), Some(submitted)),
            (events[0].kind.clone(), Some(0)),
            found,
        );
    }
    let is_end = |e: &Event| {
        matches!(
            e.kind.as_str(),
            "task.completed" | "task.failed" | "task.cancelled"
        )
    };
    // A failed task may be reopened, so each life is checked by itself. A step that an operator
    // sets by hand has failed before.
    for life in events.split(|e| e.kind == "task.reopened") {
        let end = life.iter().position(|e| is_end(e));
        // A late answer may arrive long after the end of its task.
        let may_follow = |e: &Event| ["task.resolved", ANSWERED_LATE].contains(&&*e.kind);
        let last = life.iter().rposition(|e| !may_follow(e));
        if let (Some(end), Some(last)) = (end, last) {
            before(
                task,
                (life[last].kind.clone(), Some(last)),
                (life[end].kind.clone(), Some(end)),
                found,
            );
        }
    }
    attempts_in_order(task, events, found);
    parents_first(task, plan, events, found);
}

fn name(kind: &str, step: i16, attempt: Option<i32>) -> String {
    format!(
        "{kind} of step {step}{}",
        attempt.map_or(String::new(), |a| format!(", attempt {a}"))
    )
}

/// An attempt starts before it ends, and ends before the next one starts.
fn attempts_in_order(task: &Task, events: &[&Event], found: &mut Vec<Violation>) {
    for (i, event) in events
        .iter()
        .enumerate()
        .filter(|(_, e)| e.outcome.is_some())
    {
        let (step, attempt) = (event.step.unwrap_or(-1), event.attempt);
        let start = first(events, &|e| {
            e.kind == "step.started" && e.step == event.step && e.attempt == attempt
        });
        before(
            task,
            (name("step.started", step, attempt), start),
            (name(&event.kind, step, attempt), Some(i)),
            found,
        );
        // The next attempt starts after this one ended.
        let next = attempt.map(|a| a + 1);
        let next_start = first(events, &|e| {
            e.kind == "step.started" && e.step == event.step && e.attempt == next
        });
        before(
            task,
            (name(&event.kind, step, attempt), Some(i)),
            (name("step.started", step, next), next_start),
            found,
        );
    }
}

/// A step starts after its parents are complete.
fn parents_first(task: &Task, plan: &Plan, events: &[&Event], found: &mut Vec<Violation>) {
    for (i, event) in events
        .iter()
        .enumerate()
        .filter(|(_, e)| e.kind == "step.started" && e.attempt == Some(1))
    {
        let step = event.step.unwrap_or(-1);
        for parent in plan
            .steps
            .get(at(step))
            .map_or(&[][..], |s| s.parents.as_slice())
        {
            let parent = position(*parent);
            let is_done = |e: &Event| {
                matches!(
                    e.kind.as_str(),
                    "step.completed" | "step.skipped" | "step.resolved"
                )
            };
            let completed = first(events, &|e| is_done(e) && e.step == Some(parent));
            before(
                task,
                (name("step.completed", parent, None), completed),
                (name("step.started", step, Some(1)), Some(i)),
                found,
            );
        }
    }
}

/// A transaction reads the clock while it holds its locks. So the times of a step never go back,
/// and a task never ends before its last step.
fn times(task: &Task, events: &[&Event], found: &mut Vec<Violation>) {
    let submitted = events
        .iter()
        .find(|e| e.kind == "task.submitted")
        .map_or(i64::MIN, |e| e.at);
    let mut latest: BTreeMap<Option<i16>, i64> = BTreeMap::new();
    for event in events {
        let before = match event.step {
            Some(_) => latest.get(&event.step).copied().unwrap_or(submitted),
            // Two servers may start two steps at once: the transaction that commits first also
            // starts the task.
            None if event.kind == "task.started" => submitted,
            None => latest.values().max().copied().unwrap_or(i64::MIN),
        };
        let by = before.saturating_sub(event.at);
        if by > 0 {
            found.push(Violation::EventTimesOutOfOrder {
                task: task.id,
                kind: event.kind.clone(),
                by,
            });
        }
        latest.insert(event.step, event.at);
    }
}
