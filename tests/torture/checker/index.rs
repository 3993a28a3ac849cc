//! A history, indexed by the keys that the rules look up.

use std::collections::{BTreeMap, HashMap, HashSet};

use tasker::domain::lease::Lease;
use uuid::Uuid;

use super::history::{Attempt, Event, History, Plan, Step, Task};
use crate::{
    ledger::{Ack, End, Line, Start},
    operator::FRESH,
};

/// A step of a task.
pub type StepKey = (Uuid, i16);

pub struct Index<'a> {
    pub history: &'a History,
    pub tasks: BTreeMap<Uuid, &'a Task>,
    pub steps: BTreeMap<StepKey, &'a Step>,
    /// The attempts of each step, by number.
    pub attempts: BTreeMap<StepKey, Vec<&'a Attempt>>,
    pub by_lease: HashMap<Lease, &'a Attempt>,
    /// Lines with their positions in the ledger.
    pub starts: Vec<(usize, &'a Start)>,
    pub starts_of: HashMap<&'a str, Vec<(usize, &'a Start)>>,
    pub ends_of: HashMap<&'a str, (usize, &'a End)>,
    pub acks: Vec<&'a Ack>,
    pub events: BTreeMap<Uuid, Vec<&'a Event>>,
    /// The attempts after which an operator had a step retried, and whether with all attempts again
    /// (fresh).
    pub reopened: BTreeMap<StepKey, BTreeMap<i32, bool>>,
    /// How often operators reopened each step: an order counts if the step started or failed since
    /// the order before it. The server fails a step without an attempt when its assignment is too
    /// large or its condition too costly, so `reopened` may hold one entry for several orders.
    pub reopenings: BTreeMap<StepKey, usize>,
}

impl<'a> Index<'a> {
    pub fn of(history: &'a History) -> Self {
        let mut index = Self {
            history,
            tasks: history.tasks.iter().map(|task| (task.id, task)).collect(),
            steps: history
                .steps
                .iter()
                .map(|step| ((step.task, step.step), step))
                .collect(),
            attempts: BTreeMap::new(),
            by_lease: history.attempts.iter().map(|a| (lease(a), a)).collect(),
            starts: Vec::new(),
            starts_of: HashMap::new(),
            ends_of: HashMap::new(),
            acks: Vec::new(),
            events: BTreeMap::new(),
            reopened: reopened(&history.events),
            reopenings: reopenings(&history.events),
        };
        for attempt in &history.attempts {
            index
                .attempts
                .entry((attempt.task, attempt.step))
                .or_default()
                .push(attempt);
        }
        index
            .attempts
            .values_mut()
            .for_each(|attempts| attempts.sort_by_key(|a| a.attempt));
        for (place, line) in history.lines.iter().enumerate() {
            match line {
                Line::Start(start) => {
                    index.starts.push((place, start));
                    index
                        .starts_of
                        .entry(&start.lease)
                        .or_default()
                        .push((place, start));
                }
                // The worker answered with the first end.
                Line::End(end) => drop(index.ends_of.entry(&end.lease).or_insert((place, end))),
                Line::Ack(ack) => index.acks.push(ack),
            }
        }
        for event in &history.events {
            index.events.entry(event.task).or_default().push(event);
        }
        index
    }

    pub fn plan(&self, task: &Task) -> Option<&'a Plan> {
        self.history.plans.get(&task.template)
    }

    /// The name of a task's template.
    pub fn template_of(&self, task: Uuid) -> Option<&'a str> {
        Some(self.plan(self.tasks.get(&task)?)?.name.as_str())
    }

    /// The attempts of a step, by number.
    pub fn attempts(&self, key: StepKey) -> &[&'a Attempt] {
        self.attempts.get(&key).map_or(&[], Vec::as_slice)
    }

    /// Whether an operator had the step retried after this attempt, and if so, whether with all
    /// attempts again (fresh).
    pub fn reopened(&self, attempt: &Attempt) -> Option<bool> {
        self.reopened
            .get(&(attempt.task, attempt.step))?
            .get(&attempt.attempt)
            .copied()
    }

    /// The attempt that a lease token names.
    pub fn attempt_of(&self, token: &str) -> Option<&'a Attempt> {
        self.by_lease.get(&Lease::from_token(token).ok()?).copied()
    }

    /// The position of the first start under the lease of an attempt.
    pub fn start_of(&self, attempt: &Attempt) -> Option<usize> {
        self.starts_of
            .get(lease(attempt).to_token().as_str())
            .map(|starts| starts[0].0)
    }

    /// The end of the run under the lease of an attempt, and its position.
    pub fn end_of(&self, attempt: &Attempt) -> Option<(usize, &'a End)> {
        self.ends_of
            .get(lease(attempt).to_token().as_str())
            .copied()
    }
}

fn reopened(events: &[Event]) -> BTreeMap<StepKey, BTreeMap<i32, bool>> {
    let mut all: BTreeMap<StepKey, BTreeMap<i32, bool>> = BTreeMap::new();
    let mut last: HashMap<StepKey, i32> = HashMap::new();
    for event in events {
        let Some(step) = event.step else { continue };
        let key = (event.task, step);
        match event.kind.as_str() {
            "step.started" => drop(last.insert(key, event.attempt.unwrap_or_default())),
            "step.reopened" => {
                let fresh = event.detail.as_deref() == Some(FRESH);
                all.entry(key)
                    .or_default()
                    .insert(last.get(&key).copied().unwrap_or_default(), fresh);
            }
            _ => {}
        }
    }
    all
}

fn reopenings(events: &[Event]) -> BTreeMap<StepKey, usize> {
    let mut counts = BTreeMap::new();
    let mut open: HashSet<StepKey> = HashSet::new();
    for event in events {
        let Some(step) = event.step else { continue };
        let key = (event.task, step);
        match event.kind.as_str() {
            "step.started" | "step.failed" => drop(open.remove(&key)),
            "step.reopened" if open.insert(key) => *counts.entry(key).or_default() += 1,
            _ => {}
        }
    }
    counts
}

pub fn lease(attempt: &Attempt) -> Lease {
    Lease {
        task_id: attempt.task,
        step: attempt.step,
        nonce: attempt.lease,
    }
}

/// A step's position as an index.
pub fn at(step: i16) -> usize {
    usize::try_from(step).unwrap_or(usize::MAX)
}

/// An index as a step's position.
pub fn position(step: usize) -> i16 {
    i16::try_from(step).unwrap_or(i16::MAX)
}
