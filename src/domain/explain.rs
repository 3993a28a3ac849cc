//! The reasons for the state of a step: what it waits for, since when and until when, as sentences
//! and as fields.

mod late;

use std::time::{Duration, SystemTime};

pub use late::LateFacts;

use super::{
    attempt::OutcomeKind, circuit::CircuitState, policy::Policy, size, step::StepState,
    task::TaskState,
};

/// The most waiting steps that are counted ahead of a step.
pub const MAX_AHEAD: i64 = 1_000;

/// The condition that a step waits for, or its present state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Parents that are not complete.
    Parents,
    /// The back-off between two attempts.
    Backoff,
    /// The circuit of its service: open by its counts or by an order, or half-open with its probes
    /// taken.
    Circuit,
    /// The service throttles its callers by `retry_after`.
    Throttle,
    /// The limit of its service on steps at once or on starts per second.
    Limit,
    /// No connected worker has its handler.
    NoWorker,
    /// All workers with its handler are busy, and other steps go first.
    Busy,
    /// No obstacle: the step gets the next free slot.
    Dispatch,
    /// A worker runs it.
    Running,
    /// It failed for good.
    Failed,
    /// An operator paused its task, its template or its namespace.
    Paused,
    /// The submit specified a later start.
    NotBefore,
    /// No connected worker takes an assignment of its size.
    TooLarge,
}

/// One reason, with its times as far as they are known.
#[derive(Clone, Debug, PartialEq)]
pub struct Reason {
    pub cause: Cause,
    pub message: String,
    pub since: Option<SystemTime>,
    pub until: Option<SystemTime>,
}

/// The service of a step.
#[derive(Clone, Debug)]
pub struct ServiceFacts {
    pub name: String,
    pub state: CircuitState,
    pub since: SystemTime,
    pub until: Option<SystemTime>,
    /// The cause of the last opening.
    pub opened: Option<String>,
    pub forced: Option<CircuitState>,
    pub forced_by: String,
    pub forced_reason: String,
    pub forced_until: Option<SystemTime>,
    pub throttled_until: Option<SystemTime>,
    /// Steps of the service that run now.
    pub running: u32,
    pub policy: Policy,
}

/// An operator's pause.
#[derive(Clone, Debug)]
pub struct PauseFacts {
    /// The scope: `the task`, `template n/t` or `namespace n`.
    pub of: String,
    pub since: SystemTime,
    pub by: String,
    pub reason: String,
}

/// The workers that have a step's handler. The first three fields count only those that take an
/// assignment of the step's size.
#[derive(Clone, Copy, Debug, Default)]
pub struct WorkerFacts {
    pub connected: u32,
    pub slots: u32,
    pub free: u32,
    /// Workers with the handler, whatever size they take, and the largest assignment that one of
    /// them takes, in bytes.
    pub of_any_size: u32,
    pub largest: i32,
    /// The last sign of life of a worker that takes the assignment.
    pub sufficed: Option<SystemTime>,
    /// The last sign of life of a worker with the handler, if none is connected.
    pub last_seen: Option<SystemTime>,
}

/// The facts about a step, from one snapshot.
#[derive(Clone, Debug)]
pub struct StepFacts {
    pub name: String,
    pub handler: String,
    pub state: StepState,
    /// A claim may take it, as far as its service admits it.
    pub due: bool,
    pub attempt: u32,
    pub charged: u32,
    pub retry_limit: u32,
    /// Parents that are not complete, with their states.
    pub parents: Vec<(String, StepState)>,
    pub ready_at: Option<SystemTime>,
    pub started_at: Option<SystemTime>,
    pub ended_at: Option<SystemTime>,
    pub next_attempt_at: Option<SystemTime>,
    pub deadline_at: Option<SystemTime>,
    pub worker_name: Option<String>,
    /// Upper bound of its assignment's size in bytes; present where some worker may not take it.
    pub assignment_bytes: Option<i32>,
    /// The time for which a ready step waits for a worker that takes its size.
    pub lease: Duration,
    /// The message of its last error.
    pub error: Option<String>,
    pub error_code: Option<String>,
    /// The outcome of its last attempt, while the step waits for the next one.
    pub last_outcome: Option<OutcomeKind>,
    /// The latest result that a worker sent after the attempt's end.
    pub late: Option<LateFacts>,
    /// Steps of the same handler that go first; at most [`MAX_AHEAD`].
    pub ahead: u32,
    /// Each pause that keeps the step from starting.
    pub pauses: Vec<PauseFacts>,
    pub service: ServiceFacts,
    pub workers: WorkerFacts,
}

/// Each reason that keeps the step in its state, the strongest first; empty for a complete,
/// cancelled, skipped or resolved step.
pub fn reasons(step: &StepFacts, now: SystemTime) -> Vec<Reason> {
    match step.state {
        StepState::Pending => vec![parents(step)],
        StepState::InProgress => vec![running(step, now)],
        StepState::Error => vec![failed(step)],
        StepState::Complete
        | StepState::Cancelled
        | StepState::Skipped
        | StepState::ResolvedManually => Vec::new(),
        StepState::Ready | StepState::WaitingForRetry => {
            let mut reasons: Vec<Reason> =
                step.pauses.iter().map(|pause| paused(pause, now)).collect();
            match (step.state, step.next_attempt_at) {
                (StepState::Ready, Some(at)) if !step.due => reasons.push(not_before(at, now)),
                (StepState::WaitingForRetry, _) if !step.due => reasons.push(backoff(step, now)),
                _ => {}
            }
            reasons.extend(circuit(&step.service, now));
            reasons.extend(throttle(&step.service, now));
            reasons.extend(too_large(step, now).or_else(|| no_worker(step, now)));
            // The limit and the queue matter only to a step that a claim could take: behind any
            // other obstacle they would mislead.
            if step.due && reasons.is_empty() {
                reasons.extend(limit(step));
                reasons.push(queue(step));
            }
            reasons
        }
    }
}

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

fn parents(step: &StepFacts) -> Reason {
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

fn running(step: &StepFacts, now: SystemTime) -> Reason {
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

fn failed(step: &StepFacts) -> Reason {
    let code = step
        .error_code
        .as_deref()
        .map(|code| format!(" ({code})"))
        .unwrap_or_default();
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

fn backoff(step: &StepFacts, now: SystemTime) -> Reason {
    let time = step
        .next_attempt_at
        .map(|at| from_now(at, now))
        .unwrap_or_default();
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

fn paused(pause: &PauseFacts, now: SystemTime) -> Reason {
    let PauseFacts {
        of,
        since,
        by,
        reason: why,
    } = pause;
    let message = format!("{of} is paused since {} by {by}: {why}", ago(*since, now));
    reason(Cause::Paused, message, Some(*since), None)
}

fn not_before(at: SystemTime, now: SystemTime) -> Reason {
    let message = format!("starts {}, as the submit requested", from_now(at, now));
    reason(Cause::NotBefore, message, None, Some(at))
}

fn circuit(service: &ServiceFacts, now: SystemTime) -> Option<Reason> {
    let name = &service.name;
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

fn throttle(service: &ServiceFacts, now: SystemTime) -> Option<Reason> {
    let until = service.throttled_until.filter(|until| *until > now)?;
    let message = format!(
        "{} throttles its callers (retry_after); that ends {}",
        service.name,
        from_now(until, now)
    );
    Some(reason(Cause::Throttle, message, None, Some(until)))
}

fn too_large(step: &StepFacts, now: SystemTime) -> Option<Reason> {
    let bytes = step
        .assignment_bytes
        .filter(|_| step.workers.connected == 0)?;
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

fn no_worker(step: &StepFacts, now: SystemTime) -> Option<Reason> {
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

fn limit(step: &StepFacts) -> Option<Reason> {
    let (service, policy) = (&step.service, &step.service.policy);
    if policy.max_concurrency > 0 && service.running >= policy.max_concurrency {
        let message = format!(
            "{} runs {} steps, which is its limit",
            service.name, service.running
        );
        return Some(reason(Cause::Limit, message, step.ready_at, None));
    }
    if policy.per_second > 0.0 && step.workers.free > 0 {
        let message = format!(
            "{} may start {} steps a second",
            service.name, policy.per_second
        );
        return Some(reason(Cause::Limit, message, step.ready_at, None));
    }
    None
}

fn queue(step: &StepFacts) -> Reason {
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

/// One sentence about a task, from its steps and their reasons.
pub fn summary(state: TaskState, steps: &[(StepFacts, Vec<Reason>)]) -> String {
    let complete = steps
        .iter()
        .filter(|(step, _)| step.state.is_done())
        .count();
    let first = |wanted: &dyn Fn(&Reason) -> bool| {
        let mut all = steps
            .iter()
            .flat_map(|(step, reasons)| reasons.iter().map(move |reason| (step, reason)));
        all.find(|(_, reason)| wanted(reason))
            .map(|(step, reason)| format!("{}: {}", step.name, reason.message))
    };
    match state {
        TaskState::Complete => format!("complete: all {} steps are", steps.len()),
        TaskState::ResolvedManually => {
            format!(
                "failed, and resolved by an operator with {complete} of {} steps complete",
                steps.len()
            )
        }
        TaskState::Cancelled => format!(
            "cancelled, with {complete} of {} steps complete",
            steps.len()
        ),
        TaskState::Error => format!(
            "failed, with {complete} of {} steps complete; {}",
            steps.len(),
            first(&|reason| reason.cause == Cause::Failed)
                .unwrap_or_else(|| "its deadline passed before its last step was done".into())
        ),
        TaskState::Pending | TaskState::InProgress => {
            // A step that something obstructs is the most informative, then one that runs; a step
            // that waits for its parents follows from these.
            let held = |reason: &Reason| {
                !matches!(
                    reason.cause,
                    Cause::Running | Cause::Parents | Cause::Failed
                )
            };
            let why = first(&held).or_else(|| first(&|reason| reason.cause == Cause::Running));
            format!(
                "{complete} of {} steps are complete; {}",
                steps.len(),
                why.unwrap_or_default()
            )
        }
    }
}

/// The actions that an operator can take, with their commands.
pub fn next(task_id: &str, namespace: &str, steps: &[(StepFacts, Vec<Reason>)]) -> Vec<String> {
    let mut next: Vec<String> = Vec::new();
    let mut add = |text: String| {
        if !next.contains(&text) {
            next.push(text);
        }
    };
    for (step, reasons) in steps {
        let service = &step.service.name;
        for reason in reasons {
            match reason.cause {
                Cause::NoWorker => add(format!(
                    "connect a worker with handler {0}; the connected workers: tasker worker list --handler {0}",
                    step.handler
                )),
                Cause::Circuit | Cause::Throttle => add(format!(
                    "see {service} with `tasker circuit get {namespace} {service}`; if it has recovered: tasker circuit reset {namespace} {service} --reason …"
                )),
                Cause::TooLarge => add(format!(
                    "name the results that step {} needs with `inputs` in its template, or connect a worker with handler {} and a larger \
                     `max_assignment_bytes`",
                    step.name, step.handler
                )),
                Cause::Limit => add(format!(
                    "raise the limit: tasker circuit set {namespace} {service} --max-concurrency N (or --per-second N)"
                )),
                Cause::Busy if step.workers.free == 0 => {
                    add(format!("add workers or slots for handler {}", step.handler));
                }
                Cause::Failed => {
                    add(format!(
                        "the errors of all attempts: tasker task get {task_id}"
                    ));
                    add(format!(
                        "retry it, set its result, or skip it: tasker task retry {task_id} --step {0} --reason … \
                         (or resolve --result JSON, or skip)",
                        step.name
                    ));
                }
                Cause::Paused => step
                    .pauses
                    .iter()
                    .for_each(|pause| add(resume(task_id, &pause.of))),
                _ => {}
            }
        }
    }
    next
}

/// The command that ends a pause; `of` is the scope as in [`PauseFacts::of`].
fn resume(task_id: &str, of: &str) -> String {
    let what = match of.split_once(' ') {
        Some(("template" | "namespace", name)) => format!("template resume {name}"),
        _ => format!("task resume {task_id}"),
    };
    format!("resume it: tasker {what} --reason …")
}

/// The time since `at`, in words.
fn ago(at: SystemTime, now: SystemTime) -> String {
    words(now.duration_since(at).unwrap_or_default())
}

fn from_now(at: SystemTime, now: SystemTime) -> String {
    match at.duration_since(now) {
        Ok(time) if !time.is_zero() => format!("in {}", words(time)),
        _ => "now".into(),
    }
}

/// A duration in its two most significant units.
pub fn words(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
    }
}

#[cfg(test)]
mod tests;
