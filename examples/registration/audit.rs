//! Inspects the services' own state after a run, and compares each user's holdings with the record
//! of the run.

use std::time::Duration;

use serde::Serialize;
use tasker_worker::proto::{Attempt, AttemptOutcome, GetTaskResponse, StepState, TaskState};

use crate::{
    naive,
    orchestrated::Record,
    population::Applicant,
    services::{Holdings, World},
};

/// The result of one run.
#[derive(Debug, Default, Serialize, PartialEq)]
pub struct Audit {
    pub asked: usize,
    /// The record reports completion; through Tasker, only if the services hold everything as well.
    pub completed: usize,
    pub failed: usize,
    /// Of the failed: refused with nothing created, which is a known end.
    pub refused: usize,
    /// Users for whom the services hold some parts of the registration and lack others.
    pub partial: usize,
    /// Users whose record does not determine their holdings: the last call got no answer, the task
    /// did not end, or the record and the services contradict each other.
    pub unknown: usize,
    /// Users who received the welcome mail more than once.
    pub mailed_twice: usize,
    /// Faults that the services injected.
    pub faults: usize,
    /// Calls that failed with an error that a retry may overcome.
    pub hiccups: usize,
    /// Of the hiccups: those whose step succeeded on a later attempt.
    pub recovered: usize,
    /// How long the caller waited for an answer.
    pub answer: Quantiles,
    /// How long the completed registrations took, from the request to the last step.
    pub duration: Quantiles,
}

/// Quantiles of a set of durations, in milliseconds.
#[derive(Debug, Default, Serialize, PartialEq)]
pub struct Quantiles {
    pub p50_ms: f64,
    pub p95_ms: f64,
}

impl Quantiles {
    /// By the nearest rank: always a measured value, never an interpolated one.
    fn of(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        let at = |percent: usize| {
            let rank = (durations.len() * percent).div_ceil(100).saturating_sub(1);
            durations.get(rank).map_or(0.0, |duration| {
                (duration.as_secs_f64() * 10_000.0).round() / 10.0
            })
        };
        Self {
            p50_ms: at(50),
            p95_ms: at(95),
        }
    }
}

/// How one naive registration ended, and how long it took.
pub struct NaiveRecord {
    pub outcome: Result<String, naive::Failure>,
    pub took: Duration,
}

/// The naive run: the caller's record is the first error, and there is no other record.
pub fn naive(world: &World, people: &[Applicant], records: &[NaiveRecord]) -> Audit {
    let mut audit = Audit {
        asked: people.len(),
        faults: world.faults().len(),
        ..Audit::default()
    };
    let mut durations = Vec::new();
    for (person, record) in people.iter().zip(records) {
        let holdings = world.holdings(person);
        audit.count_holdings(holdings);
        match &record.outcome {
            Ok(_) => {
                audit.completed += 1;
                durations.push(record.took);
            }
            Err(failure) => {
                let no_answer = matches!(failure.cause, naive::Cause::NoAnswer(_));
                audit.failed += 1;
                audit.unknown += usize::from(no_answer);
                audit.refused += usize::from(!no_answer && holdings.nothing());
            }
        }
    }
    // Each injected fault broke a registration, since no call was retried.
    audit.hiccups = audit.faults;
    audit.answer = Quantiles::of(records.iter().map(|record| record.took).collect());
    audit.duration = Quantiles::of(durations);
    audit
}

/// The run through Tasker: the record is the task.
pub fn orchestrated(world: &World, people: &[Applicant], records: &[Record]) -> Audit {
    let mut audit = Audit {
        asked: people.len(),
        faults: world.faults().len(),
        ..Audit::default()
    };
    let mut durations = Vec::new();
    for (person, record) in people.iter().zip(records) {
        let holdings = world.holdings(person);
        audit.count_holdings(holdings);
        let done = holdings.complete() && holdings.active;
        match record.state() {
            TaskState::Complete if done => {
                audit.completed += 1;
                durations.extend(record.task.as_ref().ok().and_then(duration));
            }
            state => {
                audit.failed += 1;
                let known = state == TaskState::Error && !done;
                audit.unknown += usize::from(!known);
                audit.refused += usize::from(known && holdings.nothing());
            }
        }
        if let Ok(found) = &record.task {
            audit.count_hiccups(found);
        }
    }
    audit.answer = Quantiles::of(records.iter().map(|record| record.answered_after).collect());
    audit.duration = Quantiles::of(durations);
    audit
}

impl Audit {
    fn count_holdings(&mut self, holdings: Holdings) {
        self.partial += usize::from(!holdings.complete() && !holdings.nothing());
        self.mailed_twice += usize::from(holdings.welcome_mails > 1);
    }

    fn count_hiccups(&mut self, found: &GetTaskResponse) {
        for step in &found.steps {
            let hiccups = step
                .attempts
                .iter()
                .filter(|attempt| is_hiccup(attempt))
                .count();
            self.hiccups += hiccups;
            self.recovered += if step.state() == StepState::Complete {
                hiccups
            } else {
                0
            };
        }
    }
}

fn is_hiccup(attempt: &Attempt) -> bool {
    use AttemptOutcome::{RetryableError, TimedOut, WorkerLost};
    matches!(attempt.outcome(), RetryableError | TimedOut | WorkerLost)
}

/// From the submission to the end, by the database's clock.
fn duration(found: &GetTaskResponse) -> Option<Duration> {
    let task = found.task.as_ref()?;
    let nanos = |time: prost_types::Timestamp| {
        i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
    };
    let took = nanos(task.ended_at?) - nanos(task.submitted_at?);
    Some(Duration::from_nanos(u64::try_from(took).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_measured_values() {
        let hundred = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!(
            Quantiles::of(hundred),
            Quantiles {
                p50_ms: 50.0,
                p95_ms: 95.0
            }
        );
        assert_eq!(
            Quantiles::of(vec![Duration::from_millis(7)]),
            Quantiles {
                p50_ms: 7.0,
                p95_ms: 7.0
            }
        );
        assert_eq!(Quantiles::of(vec![]), Quantiles::default());
    }
}
