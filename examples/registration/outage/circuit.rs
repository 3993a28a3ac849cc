//! The history of a circuit in one outage, and the attempts during it.

use prost_types::Timestamp;
use serde::Serialize;
use tasker_worker::proto::{AttemptOutcome, CircuitChange};

use super::{ACTOR, STEP};
use crate::orchestrated::Record;

/// A start that was decided before the circuit opened is written at most this much later, in
/// seconds.
const ON_ITS_WAY: f64 = 0.5;

/// Attempts of the billing step that failed and count against its limit, by the state of the
/// circuit when they started; and failed probes, which cost nothing.
#[derive(Debug, Default, Serialize, PartialEq, Eq)]
pub struct Attempts {
    pub closed: usize,
    pub open: usize,
    pub half_open: usize,
    pub probes: usize,
}

/// The changes of the circuit in one run, oldest first.
pub struct History(Vec<CircuitChange>);

impl History {
    /// All changes but pauses since the policy was set for the run.
    pub fn of(newest_first: Vec<CircuitChange>) -> Self {
        let ours = |change: &CircuitChange| {
            change.r#type == "circuit.policy_changed" && change.by == ACTOR
        };
        let mut changes: Vec<_> = newest_first
            .into_iter()
            .take_while(|change| !ours(change))
            .collect();
        changes.retain(|change| change.r#type != "circuit.paused");
        changes.reverse();
        Self(changes)
    }

    pub fn times(&self, kind: &str) -> usize {
        self.0.iter().filter(|change| change.r#type == kind).count()
    }

    pub fn seconds_open(&self) -> f64 {
        let pairs = self
            .0
            .iter()
            .zip(self.0.iter().skip(1))
            .filter(|(change, _)| change.r#type == "circuit.opened");
        pairs
            .map(|(opened, next)| seconds(next.at) - seconds(opened.at))
            .fold(0.0, |all, open| all + open)
    }

    /// The latest change before a time, and the seconds since that change.
    fn at(&self, time: f64) -> Option<(&str, f64)> {
        let change = self
            .0
            .iter()
            .rev()
            .find(|change| seconds(change.at) <= time)?;
        Some((&change.r#type, time - seconds(change.at)))
    }
}

fn seconds(at: Option<Timestamp>) -> f64 {
    at.map_or(0.0, |at| at.seconds as f64 + f64::from(at.nanos) / 1e9)
}

impl Attempts {
    pub fn of(records: &[Record], history: &History) -> Self {
        let tasks = records
            .iter()
            .filter_map(|record| record.task.as_ref().ok());
        let steps = tasks
            .flat_map(|task| &task.steps)
            .filter(|step| step.name == STEP);
        let mut spent = Self::default();
        for attempt in steps.flat_map(|step| &step.attempts) {
            let failed = matches!(
                attempt.outcome(),
                AttemptOutcome::RetryableError | AttemptOutcome::TimedOut
            );
            match history.at(seconds(attempt.started_at)) {
                _ if !attempt.charged => spent.probes += usize::from(failed),
                Some(("circuit.opened", after)) if after > ON_ITS_WAY => spent.open += 1,
                Some(("circuit.half_opened", after)) if after > ON_ITS_WAY => spent.half_open += 1,
                _ => spent.closed += 1,
            }
        }
        spent
    }

    pub fn all(&self) -> usize {
        self.closed + self.open + self.half_open
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tasker_worker::proto::{Attempt, GetTaskResponse, Step};

    use super::*;

    fn change(kind: &str, at: i64, by: &str) -> CircuitChange {
        let at = Some(Timestamp {
            seconds: at,
            nanos: 0,
        });
        CircuitChange {
            at,
            r#type: kind.to_owned(),
            by: by.to_owned(),
            ..CircuitChange::default()
        }
    }

    fn record(started: &[f64]) -> Record {
        let attempts = started.iter().map(|at| {
            let started_at = Timestamp {
                seconds: at.floor() as i64,
                nanos: (at.fract() * 1e9) as i32,
            };
            Attempt {
                charged: true,
                started_at: Some(started_at),
                ..Attempt::default()
            }
        });
        let outcome = AttemptOutcome::RetryableError.into();
        let free = Attempt {
            outcome,
            started_at: Some(Timestamp {
                seconds: 107,
                nanos: 0,
            }),
            ..Attempt::default()
        };
        let step = Step {
            name: STEP.to_owned(),
            attempts: attempts.chain([free]).collect(),
            ..Step::default()
        };
        let task = GetTaskResponse {
            steps: vec![step],
            ..GetTaskResponse::default()
        };
        Record {
            answered_after: Duration::ZERO,
            task: Ok(task),
        }
    }

    /// Newest first, as the control plane returns it: open from 101 to 111 and from 112 to 132.
    fn history() -> History {
        History::of(vec![
            change("circuit.closed", 133, ""),
            change("circuit.half_opened", 132, ""),
            change("circuit.opened", 112, ""),
            change("circuit.half_opened", 111, ""),
            change("circuit.paused", 105, ""),
            change("circuit.opened", 101, ""),
            change("circuit.policy_changed", 100, ACTOR),
            change("circuit.opened", 50, ""),
        ])
    }

    #[test]
    fn history_contains_one_run() {
        let history = history();
        assert_eq!(
            (
                history.times("circuit.opened"),
                history.times("circuit.half_opened")
            ),
            (2, 2)
        );
        assert!(
            (history.seconds_open() - 30.0).abs() < 1e-9,
            "{}",
            history.seconds_open()
        );
    }

    #[test]
    fn attempts_are_classified_by_the_circuit_state() {
        let spent = Attempts::of(
            &[record(&[100.5, 111.2, 132.75]), record(&[101.25, 133.5])],
            &history(),
        );
        assert_eq!(
            spent,
            Attempts {
                closed: 4,
                open: 0,
                half_open: 1,
                probes: 2
            }
        );
        let spent = Attempts::of(&[record(&[101.75, 106.0, 120.0])], &history());
        assert_eq!(
            spent,
            Attempts {
                closed: 0,
                open: 3,
                half_open: 0,
                probes: 1
            },
            "a pause in between hides nothing"
        );
    }
}
