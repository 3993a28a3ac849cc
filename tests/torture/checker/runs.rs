//! The handlers' lines match the attempts in the database, and acknowledged results match the
//! stored ones.

use std::collections::BTreeMap;

use super::{
    history::Attempt,
    index::{Index, at},
    violation::Violation,
};
use crate::{
    ledger::{Said, Start},
    poison,
};

pub fn check(index: &Index<'_>, found: &mut Vec<Violation>) {
    for (_, start) in &index.starts {
        asked_for(index, start, found);
    }
    let mut twice: BTreeMap<&str, &Vec<(usize, &Start)>> = BTreeMap::new();
    twice.extend(
        index
            .starts_of
            .iter()
            .filter(|(_, starts)| starts.len() > 1)
            .map(|(lease, starts)| (*lease, starts)),
    );
    for (lease, starts) in twice {
        let (lease, times, first) = (lease.to_owned(), starts.len(), starts[0].1);
        found.push(Violation::RanTwice {
            lease,
            times,
            task: first.task.clone(),
            step: first.step.clone(),
        });
    }
    for attempts in index.attempts.values() {
        attempts
            .iter()
            .for_each(|attempt| outcome(index, attempt, found));
        for pair in attempts.windows(2) {
            one_at_a_time(index, pair[0], pair[1], found);
        }
    }
    acks(index, found);
}

/// Whether a worker's answer ended the attempt.
fn is_from_worker(outcome: &str) -> bool {
    matches!(
        outcome,
        "succeeded" | "retryable_error" | "permanent_error" | "released"
    )
}

/// The outcome that the database stores for a handler's answer.
fn outcome_of(said: Said) -> Option<&'static str> {
    match said {
        Said::Success => Some("succeeded"),
        // The SDK reports a panic as a retryable error.
        Said::RetryableError | Said::Panicked => Some("retryable_error"),
        Said::PermanentError => Some("permanent_error"),
        Said::Released => Some("released"),
        Said::Dropped => None,
    }
}

/// Whether the database may store this outcome for the handler's answer: a success that is too
/// costly to judge becomes a permanent error.
fn is_made_of(index: &Index<'_>, attempt: &Attempt, said: Said) -> bool {
    let refused = || {
        said == Said::Success
            && attempt.outcome == "permanent_error"
            && index
                .template_of(attempt.task)
                .is_some_and(|name| poison::is_refusal(name, attempt.error_code.as_deref()))
    };
    outcome_of(said) == Some(attempt.outcome.as_str()) || refused()
}

fn asked_for(index: &Index<'_>, start: &Start, found: &mut Vec<Violation>) {
    let attempt = index.attempt_of(&start.lease);
    let is_its_own = attempt.is_some_and(|a| {
        let task = index.tasks.get(&a.task);
        let name = task
            .and_then(|t| index.plan(t)?.steps.get(at(a.step)))
            .map(|step| step.name.as_str());
        a.attempt == start.attempt
            && a.task.to_string() == start.task
            && name == Some(start.step.as_str())
    });
    if !is_its_own {
        let Start {
            lease,
            task,
            step,
            attempt,
            ..
        } = start.clone();
        found.push(Violation::RanUnasked {
            lease,
            task,
            step,
            attempt,
        });
    }
    if start.key != format!("{}/{}", start.task, start.step) {
        let Start {
            key, task, step, ..
        } = start.clone();
        found.push(Violation::WrongKey { task, step, key });
    }
}

/// An outcome that only a handler can cause has a handler's line.
fn outcome(index: &Index<'_>, attempt: &Attempt, found: &mut Vec<Violation>) {
    // A server also releases an assignment that never reached a handler.
    if !is_from_worker(&attempt.outcome) || attempt.outcome == "released" {
        return;
    }
    let said = index.end_of(attempt).map(|(_, end)| end.said);
    if !said.is_some_and(|said| is_made_of(index, attempt, said)) {
        found.push(Violation::OutcomeMadeUp {
            task: attempt.task,
            step: attempt.step,
            attempt: attempt.attempt,
            outcome: attempt.outcome.clone(),
            said: said.map_or("nothing".to_owned(), |said| format!("{said:?}")),
        });
    }
}

/// Two handlers may run the same step at once only after the first handler's attempt was taken from
/// it.
fn one_at_a_time(index: &Index<'_>, before: &Attempt, after: &Attempt, found: &mut Vec<Violation>) {
    if !matches!(
        before.outcome.as_str(),
        "succeeded" | "retryable_error" | "permanent_error"
    ) {
        return;
    }
    let (Some((end, _)), Some(start)) = (index.end_of(before), index.start_of(after)) else {
        return;
    };
    if start < end {
        found.push(Violation::RanAtOnce {
            task: after.task,
            step: after.step,
            attempt: after.attempt,
        });
    }
}

fn acks(index: &Index<'_>, found: &mut Vec<Violation>) {
    for ack in &index.acks {
        let Some(attempt) = index.attempt_of(&ack.lease) else {
            found.push(Violation::AckFromNowhere {
                lease: ack.lease.clone(),
            });
            continue;
        };
        let (task, step, number, outcome) = (
            attempt.task,
            attempt.step,
            attempt.attempt,
            attempt.outcome.clone(),
        );
        // A worker releases a step that it has not started; then no handler has written an end.
        let said = index
            .end_of(attempt)
            .map_or(Said::Released, |(_, end)| end.said);
        if ack.accepted && !is_made_of(index, attempt, said) {
            let said = format!("{said:?}");
            found.push(Violation::AcceptedAndLost {
                task,
                step,
                attempt: number,
                said,
                outcome,
            });
        } else if !ack.accepted && is_from_worker(&outcome) {
            found.push(Violation::StaleAndApplied {
                task,
                step,
                attempt: number,
                outcome,
            });
        }
    }
}
