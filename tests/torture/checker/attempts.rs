//! The attempts of a step: consecutive, charged only for the handler's failures, never two at once,
//! and each for a reason.

use std::collections::BTreeSet;

use tasker::domain::attempt::{MAX_LOST_ATTEMPTS, MAX_RETRY_AFTER};

use super::{
    history::{Attempt, Micros, PlannedStep, Shut, Step, is_set},
    index::{Index, StepKey, at},
    violation::Violation,
};
use crate::poison;

/// Interval arithmetic rounds.
const ROUNDING: Micros = 2;

pub fn check(index: &Index<'_>, found: &mut Vec<Violation>) {
    for (key, step) in &index.steps {
        let attempts = index.attempts(*key);
        numbers(*key, step, attempts, found);
        let task = index.tasks.get(&step.task);
        let plan = task.and_then(|task| index.plan(task)?.steps.get(at(step.step)));
        charges(index, *key, step, plan, attempts, found);
        if let Some(plan) = plan {
            course(index, *key, step, plan, attempts, found);
            deadlines(*key, plan, attempts, found);
        }
        times(index, *key, attempts, found);
        losses(index, *key, attempts, found);
        let mut leases = BTreeSet::new();
        for attempt in attempts.iter().filter(|a| !leases.insert(a.lease)) {
            found.push(Violation::LeaseShared {
                task: key.0,
                step: key.1,
                lease: attempt.lease,
            });
        }
    }
}

fn numbers((task, step): StepKey, row: &Step, attempts: &[&Attempt], found: &mut Vec<Violation>) {
    let numbers: Vec<i32> = attempts.iter().map(|a| a.attempt).collect();
    let consecutive = numbers
        .iter()
        .zip(1..)
        .all(|(number, expected)| *number == expected);
    if !consecutive || numbers.last().copied().unwrap_or(0) != row.attempt {
        found.push(Violation::AttemptsNotConsecutive {
            task,
            step,
            numbers,
            counted: row.attempt,
        });
    }
    let times = attempts.iter().filter(|a| a.outcome == "succeeded").count();
    if times > 1 {
        found.push(Violation::TwoSuccesses { task, step, times });
    }
}

fn charges(
    index: &Index<'_>,
    (task, step): StepKey,
    row: &Step,
    plan: Option<&PlannedStep>,
    attempts: &[&Attempt],
    found: &mut Vec<Violation>,
) {
    let is_right = |a: &Attempt| {
        a.charged == is_charged(&a.outcome) || plan.is_some_and(|p| is_free_probe(index, p, a))
    };
    for a in attempts.iter().filter(|a| !is_right(a)) {
        let (attempt, outcome, charged) = (a.attempt, a.outcome.clone(), a.charged);
        found.push(Violation::WronglyCharged {
            task,
            step,
            attempt,
            outcome,
            charged,
        });
    }
    let is_new = |a: &&Attempt| index.reopened(a) == Some(true);
    let since = attempts.iter().rposition(is_new).map_or(0, |last| last + 1);
    let charged =
        i32::try_from(attempts[since..].iter().filter(|a| a.charged).count()).unwrap_or(i32::MAX);
    if charged != row.charged {
        found.push(Violation::ChargesMiscounted {
            task,
            step,
            counted: row.charged,
            charged,
        });
    }
}

/// The handler's own failures and time-outs are charged.
fn is_charged(outcome: &str) -> bool {
    matches!(outcome, "retryable_error" | "timed_out" | "permanent_error")
}

/// A failed probe of a half-open circuit is not charged.
fn is_free_probe(index: &Index<'_>, plan: &PlannedStep, a: &Attempt) -> bool {
    let failed = matches!(a.outcome.as_str(), "retryable_error" | "timed_out");
    let probing =
        |s: &Shut| s.service == plan.service && s.from <= a.started_at && a.started_at <= s.until;
    failed && !a.charged && plan.retry_limit > 1 && index.history.probing.iter().any(probing)
}

/// Whether an attempt is the last one of its step, given the attempts before it.
fn is_last(attempt: &Attempt, charged: i32, lost: u16, plan: &PlannedStep) -> bool {
    match attempt.outcome.as_str() {
        "succeeded" | "permanent_error" | "cancelled" => true,
        "retryable_error" | "timed_out" => charged >= plan.retry_limit,
        "worker_lost" => lost >= MAX_LOST_ATTEMPTS,
        _ => false,
    }
}

/// The error of a step is that of its last attempt.
fn error_of_the_last((task, step): StepKey, row: &Step, a: &Attempt, found: &mut Vec<Violation>) {
    if row.state == "error" && row.error_code != a.error_code {
        let what = format!(
            "its error is {:?}, that of its last attempt {:?}",
            row.error_code, a.error_code
        );
        found.push(Violation::StepStateWrong { task, step, what });
    }
}

/// The step goes on while its limits allow, ends at its last attempt, and has the state that this
/// attempt or an operator's order requires.
fn course(
    index: &Index<'_>,
    (task, step): StepKey,
    row: &Step,
    plan: &PlannedStep,
    attempts: &[&Attempt],
    found: &mut Vec<Violation>,
) {
    let (mut charged, mut lost) = (0, 0);
    for (i, a) in attempts.iter().enumerate() {
        charged += i32::from(is_charged(&a.outcome));
        lost += u16::from(a.outcome == "worker_lost");
        let (attempt, outcome) = (a.attempt, a.outcome.clone());
        let last = is_last(a, charged, lost, plan);
        if let Some(fresh) = index.reopened(a) {
            if !last {
                let state = "error, and tried again".to_owned();
                found.push(Violation::EndedTooEarly {
                    task,
                    step,
                    attempt,
                    outcome: outcome.clone(),
                    state,
                });
            }
            // A fresh retry also counts charged attempts from zero; any retry does so with lost
            // ones.
            (charged, lost) = (if fresh { 0 } else { charged }, 0);
        }
        if i + 1 < attempts.len() {
            if last && index.reopened(a).is_none() {
                found.push(Violation::OneTryTooMany {
                    task,
                    step,
                    attempt,
                    outcome,
                });
            }
            continue;
        }
        let state = row.state.clone();
        match (last, a.outcome.as_str(), row.state.as_str()) {
            (true, "succeeded", "complete") | (true, "cancelled", "cancelled") => {}
            (
                true,
                "retryable_error" | "timed_out" | "permanent_error" | "worker_lost",
                "error",
            ) => {}
            (_, "succeeded" | "cancelled", state) if is_set(state) => {
                found.push(Violation::SetAndSettled {
                    task,
                    step,
                    attempt,
                    outcome,
                    state: state.to_owned(),
                });
            }
            (_, _, state) if is_set(state) => {}
            // The step was cancelled after it was reopened, before its next attempt started.
            (true, _, "cancelled") if index.reopened(a).is_some() => {}
            // The task was cancelled while the step waited for its next attempt.
            (false, _, "cancelled") => {}
            (false, _, "error" | "complete") => {
                found.push(Violation::EndedTooEarly {
                    task,
                    step,
                    attempt,
                    outcome,
                    state,
                });
            }
            _ => {
                let what = format!("{state} after attempt {attempt}, its last, ended as {outcome}");
                found.push(Violation::StepStateWrong { task, step, what });
            }
        }
        error_of_the_last((task, step), row, a, found);
    }
    if attempts.is_empty() {
        without_attempts(index, (task, step), row, found);
    }
}

/// A step ends without an attempt only by an operator's command or its task's end, or when the
/// server refuses it.
fn without_attempts(
    index: &Index<'_>,
    (task, step): StepKey,
    row: &Step,
    found: &mut Vec<Violation>,
) {
    let is_refused = row.state == "error"
        && index
            .template_of(task)
            .is_some_and(|name| poison::is_refusal(name, row.error_code.as_deref()));
    if matches!(row.state.as_str(), "complete" | "error") && !is_refused {
        let what = format!("{} without an attempt", row.state);
        found.push(Violation::StepStateWrong { task, step, what });
    }
}

fn times(
    index: &Index<'_>,
    (task, step): StepKey,
    attempts: &[&Attempt],
    found: &mut Vec<Violation>,
) {
    for pair in attempts.windows(2) {
        let (before, after) = (pair[0], pair[1]);
        let attempt = after.attempt;
        if after.started_at < before.ended_at {
            found.push(Violation::AttemptsOverlap {
                task,
                step,
                attempt,
            });
        }
        // An operator's retry does not wait for the back-off.
        if index.reopened(before).is_some() {
            continue;
        }
        let asked = before.retry_after.map(|delay| {
            let most = Micros::try_from(MAX_RETRY_AFTER.as_micros()).unwrap_or(Micros::MAX);
            before.ended_at + delay.min(most) - ROUNDING
        });
        let earliest = before.next_attempt_at.into_iter().chain(asked).max();
        let early = earliest.map_or(0, |at| at - after.started_at);
        if early > 0 {
            found.push(Violation::RetriedTooEarly {
                task,
                step,
                attempt,
                early,
            });
        }
    }
}

fn deadlines(
    (task, step): StepKey,
    plan: &PlannedStep,
    attempts: &[&Attempt],
    found: &mut Vec<Violation>,
) {
    for a in attempts.iter().filter(|a| a.outcome == "timed_out") {
        let early = a.started_at + plan.timeout - a.ended_at;
        if early > ROUNDING {
            found.push(Violation::TimedOutTooEarly {
                task,
                step,
                attempt: a.attempt,
                early,
            });
        }
    }
}

/// A worker that did not drain is lost only after its lease ran out.
fn losses(
    index: &Index<'_>,
    (task, step): StepKey,
    attempts: &[&Attempt],
    found: &mut Vec<Violation>,
) {
    for a in attempts.iter().filter(|a| a.outcome == "worker_lost") {
        let Some(worker) = index.history.workers.get(&a.worker) else {
            continue;
        };
        if !worker.draining
            && worker
                .ended_at
                .is_none_or(|ended| ended < worker.lease_expires_at)
        {
            found.push(Violation::LostTooEarly {
                task,
                step,
                attempt: a.attempt,
            });
        }
    }
}
