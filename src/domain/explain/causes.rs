//! Each cause as a sentence, with its times.

use std::time::SystemTime;

use super::{
    Cause, MAX_AHEAD, PauseFacts, Reason, ServiceFacts, StepFacts, WorkerFacts,
    time::{ago, from_now},
};
use crate::domain::{attempt::OutcomeKind, circuit::CircuitState, size, step::StepState};

fn reason(
    cause: Cause,
    message: String,
    since: Option<SystemTime>,
    until: Option<SystemTime>,
) -> Reason {
    Reason {
        cause,
        message,
        since,
        until,
    }
}

pub fn parents(step: &StepFacts) -> Reason {
    // A parent that failed or was cancelled is the whole answer: the others no longer matter.
    let dead = step
        .parents
        .iter()
        .find(|(_, state)| matches!(state, StepState::Error | StepState::Cancelled));
    let message = match dead {
        Some((name, state)) => format!("never starts: its parent {name} is {state}"),
        None => {
            let names: Vec<String> = step
                .parents
                .iter()
                .map(|(name, state)| format!("{name} ({state})"))
                .collect();
            format!("waits for {}", names.join(" and "))
        }
    };
    reason(Cause::Parents, message, None, None)
}

pub fn running(step: &StepFacts, now: SystemTime) -> Reason {
    let worker = step
        .worker_name
        .as_deref()
        .filter(|name| !name.is_empty())
        .unwrap_or("a worker");
    let time = step.started_at.map(|at| ago(at, now)).unwrap_or_default();
    let message = format!(
        "attempt {} runs on {worker} since {time}; it is timed out {}",
        step.attempt,
        step.deadline_at
            .map(|at| from_now(at, now))
            .unwrap_or_default()
    );
    reason(Cause::Running, message, step.started_at, step.deadline_at)
}

pub fn failed(step: &StepFacts) -> Reason {
    let code = step
        .error_code
        .as_deref()
        .map(|code| format!(" ({code})"))
        .unwrap_or_default();
    // Lost, released and probing attempts have a number but no charge.
    let free = step.attempt.saturating_sub(step.charged);
    let free = if free > 0 {
        format!(", and {free} uncharged")
    } else {
        String::new()
    };
    let message = format!(
        "failed finally after {} of {} attempts{free}: {}{code}",
        step.charged,
        step.retry_limit,
        step.error.as_deref().unwrap_or("no message"),
    );
    reason(Cause::Failed, message, step.ended_at, None)
}

pub fn backoff(step: &StepFacts, now: SystemTime) -> Reason {
    let time = step
        .next_attempt_at
        .map(|at| from_now(at, now))
        .unwrap_or_default();
    // These two outcomes record no error, so the one on record is of an earlier attempt.
    let error = match (step.last_outcome, step.error.as_deref()) {
        (Some(OutcomeKind::Drained), _) => {
            "; the worker of the last one drained before its result".to_owned()
        }
        (Some(OutcomeKind::Released), _) => "; the worker of the last one released it".to_owned(),
        (_, Some(error)) => format!("; the last one failed: {error}"),
        (_, None) => String::new(),
    };
    let message = format!(
        "attempt {} of {} {time}{error}",
        step.charged + 1,
        step.retry_limit
    );
    reason(Cause::Backoff, message, None, step.next_attempt_at)
}

pub fn paused(pause: &PauseFacts, now: SystemTime) -> Reason {
    let PauseFacts {
        of,
        since,
        by,
        reason: why,
    } = pause;
    let message = format!("{of} is paused since {} by {by}: {why}", ago(*since, now));
    reason(Cause::Paused, message, Some(*since), None)
}

pub fn not_before(at: SystemTime, now: SystemTime) -> Reason {
    let message = format!("starts {}, as the submit requested", from_now(at, now));
    reason(Cause::NotBefore, message, None, Some(at))
}

pub fn circuit(service: &ServiceFacts, now: SystemTime) -> Option<Reason> {
    let name = &service.name;
    // An operator's order overrides the counts, and applies even if the policy is disabled.
    match service.forced {
        Some(CircuitState::Closed) => return None,
        Some(_) => {
            let until = service.forced_until.map_or_else(
                || "until an operator resets it".to_owned(),
                |at| format!("until then, {}", from_now(at, now)),
            );
            let message = format!(
                "circuit {name} is open by order of {}, {until}: {}",
                service.forced_by, service.forced_reason
            );
            return Some(reason(Cause::Circuit, message, None, service.forced_until));
        }
        None => {}
    }
    if !service.policy.enabled {
        return None;
    }
    let why = service
        .opened
        .as_deref()
        .map(|why| format!(" ({why})"))
        .unwrap_or_default();
    match service.state {
        CircuitState::Closed => None,
        CircuitState::Open => {
            let time = service
                .until
                .map(|at| from_now(at, now))
                .unwrap_or_default();
            let message = format!(
                "circuit {name} is open since {}{why}; it is probed {time}",
                ago(service.since, now)
            );
            Some(reason(
                Cause::Circuit,
                message,
                Some(service.since),
                service.until,
            ))
        }
        CircuitState::HalfOpen => {
            let message = format!(
                "circuit {name} is half-open{why}: {} probes decide",
                service.policy.probes
            );
            Some(reason(Cause::Circuit, message, Some(service.since), None))
        }
    }
}

pub fn throttle(service: &ServiceFacts, now: SystemTime) -> Option<Reason> {
    let until = service.throttled_until.filter(|until| *until > now)?;
    let message = format!(
        "{} throttles its callers (retry_after); that ends {}",
        service.name,
        from_now(until, now)
    );
    Some(reason(Cause::Throttle, message, None, Some(until)))
}

pub fn too_large(step: &StepFacts, now: SystemTime) -> Option<Reason> {
    let bytes = step
        .assignment_bytes
        .filter(|_| step.workers.connected == 0)?;
    // Without any worker the size is not the obstacle, unless no worker could ever take it.
    if step.workers.of_any_size == 0 && bytes <= size::MAX_ASSIGNMENT_BYTES {
        return None;
    }
    // The wait begins with the later of two times: the step became ready, and the last worker that
    // takes its size gave its last sign of life.
    let since = step.ready_at.max(step.workers.sufficed);
    let until = since.filter(|_| step.due).map(|at| at + step.lease);
    let fails = until
        .map(|at| format!("; it fails {} unless one connects", from_now(at, now)))
        .unwrap_or_default();
    let message = format!(
        "its assignment of up to {} ({bytes} bytes) exceeds the limit of every connected worker of handler {}, the largest of which is {}{fails}",
        size::bytes(bytes),
        step.handler,
        size::bytes(step.workers.largest),
    );
    Some(reason(Cause::TooLarge, message, since, until))
}

pub fn no_worker(step: &StepFacts, now: SystemTime) -> Option<Reason> {
    if step.workers.connected > 0 {
        return None;
    }
    let seen = step
        .workers
        .last_seen
        .map(|at| format!("last seen {} ago", ago(at, now)));
    let seen = seen.unwrap_or_else(|| "none was connected recently".into());
    let message = format!("no connected worker has handler {}; {seen}", step.handler);
    Some(reason(
        Cause::NoWorker,
        message,
        step.workers.last_seen,
        None,
    ))
}

pub fn limit(step: &StepFacts) -> Option<Reason> {
    let (service, policy) = (&step.service, &step.service.policy);
    if policy.max_concurrency > 0 && service.running >= policy.max_concurrency {
        let message = format!(
            "{} runs {} steps, which is its limit",
            service.name, service.running
        );
        return Some(reason(Cause::Limit, message, step.ready_at, None));
    }
    // The rate is only inferred: a free slot that the step does not get leaves no other cause.
    if policy.per_second > 0.0 && step.workers.free > 0 {
        let message = format!(
            "{} may start {} steps a second",
            service.name, policy.per_second
        );
        return Some(reason(Cause::Limit, message, step.ready_at, None));
    }
    None
}

pub fn queue(step: &StepFacts) -> Reason {
    let WorkerFacts {
        connected,
        slots,
        free,
        ..
    } = step.workers;
    let ahead = match i64::from(step.ahead) {
        0 => "it is the next".to_owned(),
        n if n >= MAX_AHEAD => format!("at least {MAX_AHEAD} others go before it"),
        n => format!("{n} go before it, by priority or age"),
    };
    // A free slot and no other step before it: the next claim takes it.
    if free > 0 && step.ahead == 0 {
        return reason(
            Cause::Dispatch,
            "about to be assigned to a worker".into(),
            step.ready_at,
            None,
        );
    }
    let message = format!(
        "{} of {slots} slots of {connected} workers are taken; {ahead}",
        slots - free.min(slots)
    );
    reason(Cause::Busy, message, step.ready_at, None)
}
