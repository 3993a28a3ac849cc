//! The steps of a worker: those that wait for a slot, run, or ended without an acknowledgement so
//! far.
//!
//! One task owns them, the one that holds the stream to the server, so no lock is needed. They are
//! independent of connections, which come and go while handlers run.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use thiserror::Error;
use tokio::{
    runtime,
    task::{AbortHandle, Id, JoinError, JoinSet},
    time,
};
use tracing::{Instrument as _, debug, error, info_span, warn};

#[cfg(feature = "otel")]
use crate::telemetry;
use crate::{
    CancelReason, RetryableError, StepContext, StepError,
    handler::ErasedHandler,
    outcome::outcome,
    proto::{StepAssignment, StepResult, step_result::Outcome},
    stop::at,
};

/// How long a cancelled handler may continue before it is dropped.
const CANCEL_GRACE: Duration = Duration::from_secs(5);

/// The server leaves results unacknowledged and continues to assign steps.
#[derive(Clone, Copy, Debug, Error)]
#[error("the server has not acknowledged {0} results")]
pub(crate) struct Unacknowledged(usize);

pub(crate) struct Steps {
    handlers: HashMap<String, Arc<dyn ErasedHandler>>,
    max_concurrent: usize,
    /// The runtime of the handlers, which is not that of this task.
    runtime: runtime::Handle,
    /// Assigned, without a slot: cancelled handlers still occupy the slots that the server counts
    /// as free.
    waiting: VecDeque<StepContext>,
    /// By lease token, as are `stopping` and `ended`.
    running: HashMap<String, Running>,
    /// Handlers whose lease is lost: their results are not sent.
    stopping: HashMap<String, Stopping>,
    attempts: JoinSet<Result<String, StepError>>,
    lease_of: HashMap<Id, String>,
    ended: HashMap<String, Outcome>,
    /// Leases of `ended` that the current connection has not carried yet; may contain duplicates,
    /// and leases that are gone.
    outbox: VecDeque<String>,
    draining: bool,
}

struct Running {
    step: StepContext,
    attempt: AbortHandle,
}

struct Stopping {
    handler: Running,
    /// None until the server's `cancel` gives the reason, and after the handler was dropped.
    abort_at: Option<time::Instant>,
}

impl Steps {
    pub fn new(
        handlers: HashMap<String, Arc<dyn ErasedHandler>>,
        max_concurrent: usize,
        runtime: runtime::Handle,
    ) -> Self {
        Self {
            handlers,
            max_concurrent,
            runtime,
            waiting: VecDeque::new(),
            running: HashMap::new(),
            stopping: HashMap::new(),
            attempts: JoinSet::new(),
            lease_of: HashMap::new(),
            ended: HashMap::new(),
            outbox: VecDeque::new(),
            draining: false,
        }
    }

    /// Accepts an assignment, or releases it if it cannot start here.
    pub fn assign(&mut self, assignment: StepAssignment) -> Result<(), Unacknowledged> {
        if self.holds(&assignment.lease_token) {
            debug!(
                lease = assignment.lease_token,
                "repeated assignment ignored"
            );
            return Ok(());
        }
        // Results occupy memory until their acknowledgement, so their number is bounded.
        if self.ended.len() >= self.max_unacknowledged() {
            return Err(Unacknowledged(self.ended.len()));
        }
        let step = StepContext::new(assignment, Instant::now());
        let known = self.handlers.contains_key(step.handler());
        let in_bounds = self.owned() < self.max_concurrent;
        if !known {
            error!(
                ?step,
                "the server assigned a step whose handler this worker does not have"
            );
        } else if !in_bounds {
            warn!(
                ?step,
                "the server assigned more steps than max_concurrent_steps"
            );
        }
        // A step that cannot start here is released and not failed: another worker may run it, at
        // no cost to its attempts.
        if known && in_bounds && !self.draining {
            // Through the queue even with a free slot, so that steps start in the order of their
            // assignment.
            self.waiting.push_back(step);
            self.fill_slots();
        } else {
            self.release(&step);
        }
        Ok(())
    }

    /// Stops an attempt whose lease is lost, and discards its result, if it has one.
    pub fn cancel(&mut self, lease: &str, reason: CancelReason) {
        self.ended.remove(lease);
        self.waiting.retain(|step| step.lease_token() != lease);
        self.disown(lease);
        if let Some(stopping) = self.stopping.get_mut(lease) {
            let step = &stopping.handler.step;
            debug!(?step, ?reason, "the step is cancelled");
            // Only the first cancellation counts: a repeated one must not prolong the grace.
            if !step.is_cancelled() {
                step.cancellation().cancel(reason);
                stopping.abort_at = Some(time::Instant::now() + CANCEL_GRACE);
            }
        }
        self.fill_slots();
    }

    /// Forgets a result: it is committed, or came too late.
    pub fn acknowledge(&mut self, lease: &str) {
        self.ended.remove(lease);
        self.fill_slots();
    }

    /// Applies a new connection: keeps the leases that the server confirmed, and queues every
    /// result again.
    ///
    /// A running step whose lease is lost continues until the server's `cancel`, which has the
    /// reason.
    pub fn reconnected(&mut self, kept: &[String]) {
        let kept: HashSet<&str> = kept.iter().map(String::as_str).collect();
        self.ended.retain(|lease, _| kept.contains(lease.as_str()));
        self.waiting
            .retain(|step| kept.contains(step.lease_token()));
        let leases: Vec<String> = self.running.keys().cloned().collect();
        for lease in leases.iter().filter(|lease| !kept.contains(lease.as_str())) {
            self.disown(lease);
        }
        // All of them, since acknowledgements may have been lost with the last connection.
        self.outbox = self.ended.keys().cloned().collect();
        self.fill_slots();
    }

    /// Accepts no more steps, and releases those that have not started.
    pub fn drain(&mut self) {
        self.draining = true;
        for step in std::mem::take(&mut self.waiting) {
            self.release(&step);
        }
    }

    /// The leases to claim at a reconnect.
    pub fn held_leases(&self) -> Vec<String> {
        let waiting = self
            .waiting
            .iter()
            .map(|step| step.lease_token().to_owned());
        // The lease of an unacknowledged result is needed until then; those of `stopping` are lost.
        let running = self.running.keys().chain(self.ended.keys()).cloned();
        running.chain(waiting).collect()
    }

    /// Whether [`next_result`](Self::next_result) may return one.
    pub fn has_results(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// The next result to send. It is kept until its acknowledgement.
    pub fn next_result(&mut self) -> Option<StepResult> {
        while let Some(lease_token) = self.outbox.pop_front() {
            if let Some(outcome) = self.ended.get(&lease_token) {
                // A copy: the outcome stays until its acknowledgement.
                let outcome = Some(outcome.clone());
                return Some(StepResult {
                    lease_token,
                    outcome,
                });
            }
        }
        None
    }

    /// Waits until a handler ends, or exceeds the grace after its cancellation, and records that.
    /// Cancel-safe.
    pub async fn progress(&mut self) {
        let next_abort = self
            .stopping
            .values()
            .filter_map(|stopping| stopping.abort_at)
            .min();
        tokio::select! {
            // Without attempts this branch is disabled, and without a time the other one never
            // resolves: the caller's other events wake it then.
            Some(ended) = self.attempts.join_next_with_id() => match ended {
                Ok((id, answer)) => self.finish(id, Ok(answer)),
                Err(error) => self.finish(error.id(), Err(error)),
            },
            () = at(next_abort) => self.abort_overdue(),
        }
    }

    /// Whether no step runs or waits, and no result is unacknowledged.
    pub fn is_idle(&self) -> bool {
        self.unfinished() == 0 && self.ended.is_empty()
    }

    /// The number of steps that run or wait.
    pub fn unfinished(&self) -> usize {
        self.owned() + self.stopping.len()
    }

    /// The number of unacknowledged results.
    pub fn unacknowledged(&self) -> usize {
        self.ended.len()
    }

    fn holds(&self, lease: &str) -> bool {
        self.running.contains_key(lease)
            || self.stopping.contains_key(lease)
            || self.ended.contains_key(lease)
            || self.waiting.iter().any(|step| step.lease_token() == lease)
    }

    /// Steps that the server counts against `max_concurrent_steps`.
    fn owned(&self) -> usize {
        self.running.len() + self.waiting.len()
    }

    /// A server counts a slot as free when a result arrives, and acknowledges the result after the
    /// commit, so a few more results than slots are normal.
    fn max_unacknowledged(&self) -> usize {
        2 * self.max_concurrent + 16
    }

    fn fill_slots(&mut self) {
        // A cancelled handler still runs and occupies its slot here, whatever the server counts.
        while self.running.len() + self.stopping.len() < self.max_concurrent
            && self.ended.len() < self.max_unacknowledged()
            && let Some(step) = self.waiting.pop_front()
        {
            self.start(step);
        }
    }

    fn start(&mut self, step: StepContext) {
        let Some(handler) = self.handlers.get(step.handler()).cloned() else {
            return self.release(&step);
        };
        let span = info_span!(
            "step",
            task_id = step.task_id(),
            step = step.step_name(),
            handler = step.handler(),
            attempt = step.attempt(),
            correlation_id = step.correlation_id(),
        );
        #[cfg(feature = "otel")]
        telemetry::continue_in(&span, step.traceparent());
        let lease = step.lease_token().to_owned();
        let given = step.clone();
        let attempt = async move { handler.call(given).await }.instrument(span);
        // The id is entered before the result can be taken, since only this task takes results.
        let attempt = self.attempts.spawn_on(attempt, &self.runtime);
        self.lease_of.insert(attempt.id(), lease.clone());
        self.running.insert(lease, Running { step, attempt });
    }

    fn finish(&mut self, id: Id, answer: Result<Result<String, StepError>, JoinError>) {
        let Some(lease) = self.lease_of.remove(&id) else {
            return;
        };
        // A step in `stopping` has lost its lease, so its answer is discarded.
        let running = self.running.remove(&lease);
        self.stopping.remove(&lease);
        if let Some(Running { step, .. }) = running {
            let answer = answer.map_or_else(|error| panicked(error, &step).map(Err), Some);
            if let Some(answer) = answer {
                self.end(lease, outcome(answer));
            }
        }
        self.fill_slots();
    }

    fn disown(&mut self, lease: &str) {
        if let Some(handler) = self.running.remove(lease) {
            let stopping = Stopping {
                handler,
                abort_at: None,
            };
            self.stopping.insert(lease.to_owned(), stopping);
        }
    }

    fn release(&mut self, step: &StepContext) {
        self.end(
            step.lease_token().to_owned(),
            outcome(Err(StepError::Released)),
        );
    }

    fn end(&mut self, lease: String, outcome: Outcome) {
        self.outbox.push_back(lease.clone());
        self.ended.insert(lease, outcome);
    }

    fn abort_overdue(&mut self) {
        let now = time::Instant::now();
        for Stopping { handler, abort_at } in self.stopping.values_mut() {
            if abort_at.is_some_and(|abort_at| abort_at <= now) {
                warn!(step = ?handler.step, "the handler ignores its cancellation; it is dropped");
                // Once is enough: the handler ends at its next await, and occupies its slot until
                // then.
                *abort_at = None;
                handler.attempt.abort();
            }
        }
    }
}

/// The error of a handler that panicked; none for an aborted one, which sends no result.
fn panicked(error: JoinError, step: &StepContext) -> Option<StepError> {
    let payload = error.try_into_panic().ok()?;
    // A panic with a literal carries a `&str`, a formatted one a `String`.
    let reason = payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    error!(?step, reason, "the handler panicked");
    let error = RetryableError::new(format!("the handler panicked: {reason}"));
    Some(error.error_code("HANDLER_PANIC").into())
}
