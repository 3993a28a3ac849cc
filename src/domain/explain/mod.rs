//! The reasons for the state of a step: what it waits for, since when and until when, as sentences
//! and as fields.

mod causes;
mod late;
mod summary;
#[cfg(test)]
mod tests;
mod time;

use std::time::{Duration, SystemTime};

pub use self::{
    late::LateFacts,
    summary::{next, summary},
    time::words,
};
use super::{attempt::OutcomeKind, circuit::CircuitState, policy::Policy, step::StepState};

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
        StepState::Pending => vec![causes::parents(step)],
        StepState::InProgress => vec![causes::running(step, now)],
        StepState::Error => vec![causes::failed(step)],
        StepState::Complete
        | StepState::Cancelled
        | StepState::Skipped
        | StepState::ResolvedManually => Vec::new(),
        StepState::Ready | StepState::WaitingForRetry => {
            let mut reasons: Vec<Reason> = step
                .pauses
                .iter()
                .map(|pause| causes::paused(pause, now))
                .collect();
            match (step.state, step.next_attempt_at) {
                (StepState::Ready, Some(at)) if !step.due => {
                    reasons.push(causes::not_before(at, now));
                }
                (StepState::WaitingForRetry, _) if !step.due => {
                    reasons.push(causes::backoff(step, now));
                }
                _ => {}
            }
            // The strongest first: pauses, the step's own time, its service, and then workers.
            reasons.extend(causes::circuit(&step.service, now));
            reasons.extend(causes::throttle(&step.service, now));
            reasons.extend(causes::too_large(step, now).or_else(|| causes::no_worker(step, now)));
            // The limit and the queue matter only to a step that a claim could take: behind any
            // other obstacle they would mislead.
            if step.due && reasons.is_empty() {
                reasons.extend(causes::limit(step));
                reasons.push(causes::queue(step));
            }
            reasons
        }
    }
}
