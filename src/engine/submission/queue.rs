//! The entry to the intake loop: submits are validated, and wait in a queue for their transaction.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    time::Instant,
};

use super::{
    group::Group,
    prepare::Preparer,
    request::{IntakeError, Submission, Submitted},
};
use crate::{engine::time::jitter, store::StoreError};

/// Maximum submits per transaction.
pub const MAX_BATCH: usize = 256;
/// Maximum submits in the queue; further ones are rejected.
const MAX_QUEUE: usize = 2_048;
/// Maximum queueing delay. If the head of the last batch has waited longer and more than a batch is
/// queued, new submits are rejected: they would time out after [`SUBMIT_LIMIT`] anyway.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// Maximum wait of a submit while no transaction of intake ends: the database neither answers nor
/// breaks the connection.
const STORE_LIMIT: Duration = Duration::from_millis(2_500);
/// Maximum wait of a submit in a queue that moves.
const SUBMIT_LIMIT: Duration = Duration::from_secs(10);
/// Maximum bytes of tasks in the queue or in a transaction, in KiB; further ones are rejected.
const MAX_QUEUE_KIB: usize = 64 << 10;
/// The `RetryInfo` of a rejection: about the time that a full queue takes to drain. Earlier retries
/// would be rejected again, and would cost more than the submits that are stored.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// `RETRY_AFTER` with jitter, so that clients do not all return at once.
pub fn retry_after() -> Duration {
    jitter(RETRY_AFTER)
}

/// The sending end of the intake queue. Cheap to clone.
#[derive(Clone)]
pub struct IntakeQueue {
    sender: mpsc::Sender<Group>,
    weight: Arc<Semaphore>,
    preparer: Preparer,
    stored: Stored,
}

/// The progress of the intake loop, shared with the callers.
pub type Stored = Arc<watch::Sender<IntakeProgress>>;

#[derive(Clone, Copy)]
pub struct IntakeProgress {
    /// The end of the last transaction.
    pub at: Instant,
    /// The queueing delay of the first submit of the last batch.
    pub waited: Duration,
}

/// Whether the queue holds more than can be stored in time.
fn is_behind(waiting: usize, waited: Duration) -> bool {
    waiting > MAX_BATCH && waited > MAX_WAIT
}

impl IntakeQueue {
    /// The two ends of the queue.
    pub fn new(preparer: Preparer) -> (Self, mpsc::Receiver<Group>) {
        let (sender, groups) = mpsc::channel(MAX_QUEUE);
        let stored = watch::Sender::new(IntakeProgress {
            at: Instant::now(),
            waited: Duration::ZERO,
        });
        let queue = Self {
            sender,
            weight: Arc::new(Semaphore::new(MAX_QUEUE_KIB)),
            preparer,
            stored: Arc::new(stored),
        };
        (queue, groups)
    }

    /// The progress of the intake loop.
    pub fn progress(&self) -> &watch::Sender<IntakeProgress> {
        &self.stored
    }

    /// Validates the submissions and has them stored. Returns after the commit.
    pub async fn submit(
        &self,
        submissions: Vec<Submission>,
    ) -> Result<Vec<Submitted>, IntakeError> {
        // The check of the load comes first, so that a rejection costs next to nothing.
        if is_behind(
            MAX_QUEUE - self.sender.capacity(),
            self.stored.borrow().waited,
        ) {
            return Err(IntakeError::Full);
        }
        let kib: usize = submissions
            .iter()
            .map(|s| 1 + (s.context.len() + s.annotations.len()) / 1024)
            .sum();
        let kib = kib.min(MAX_QUEUE_KIB);
        if self.weight.available_permits() < kib || self.sender.capacity() == 0 {
            return Err(if self.sender.is_closed() {
                IntakeError::ShuttingDown
            } else {
                IntakeError::Full
            });
        }
        let submissions: Vec<Arc<Submission>> = submissions.into_iter().map(Arc::new).collect();
        // Read before the versions are resolved: a template registered in between then counts as
        // unknown, and the group is prepared again.
        let mut seen = self.preparer.templates.newest();
        let tasks = match self.preparer.prepare(&submissions).await {
            Err(IntakeError::NoTemplate { .. } | IntakeError::Retired { .. }) => {
                // The template may have been registered or restored on another server a moment ago.
                self.preparer
                    .templates
                    .refresh()
                    .await
                    .map_err(|e| IntakeError::Failed(Arc::new(e)))?;
                seen = self.preparer.templates.newest();
                self.preparer.prepare(&submissions).await?
            }
            other => other?,
        };
        // Capacity is taken only now, so that submissions under evaluation occupy none of the
        // queue.
        let permits = u32::try_from(kib).unwrap_or(u32::MAX);
        let place = Arc::clone(&self.weight)
            .try_acquire_many_owned(permits)
            .map_err(|_| IntakeError::Full)?;
        let room = self.sender.try_reserve().map_err(|error| match error {
            mpsc::error::TrySendError::Full(()) => IntakeError::Full,
            mpsc::error::TrySendError::Closed(()) => IntakeError::ShuttingDown,
        })?;
        let asked = Instant::now();
        let (reply, answer) = oneshot::channel();
        room.send(Group {
            tasks,
            seen,
            reply,
            asked,
            _place: place,
        });
        tokio::select! {
            answer = answer => answer.map_err(|_| IntakeError::ShuttingDown)?,
            waited = self.in_vain() => {
                let error = StoreError::Connection(format!("not confirmed within {waited:?}"));
                Err(IntakeError::Failed(Arc::new(error)))
            }
        }
    }

    /// Prepares a group again with refreshed templates.
    pub async fn again(&self, mut group: Group) {
        let prepared = async {
            self.preparer
                .templates
                .refresh()
                .await
                .map_err(|e| IntakeError::Failed(Arc::new(e)))?;
            group.seen = self.preparer.templates.newest();
            let submissions: Vec<_> = group
                .tasks
                .iter()
                .map(|task| Arc::clone(&task.submission))
                .collect();
            self.preparer.prepare(&submissions).await
        };
        match prepared.await {
            Ok(tasks) => {
                group.tasks = tasks;
                // If the queue is closed, the group is dropped, and its caller gets `ShuttingDown`.
                let _ = self.sender.send(group).await;
            }
            Err(error) => drop(group.reply.send(Err(error))),
        }
    }

    /// Resolves when a submit made now has waited for too long: `STORE_LIMIT` since the last
    /// transaction ended, or `SUBMIT_LIMIT` in all.
    async fn in_vain(&self) -> Duration {
        let asked = Instant::now();
        let mut until = asked + STORE_LIMIT;
        while until > Instant::now() {
            tokio::time::sleep_until(until).await;
            until = (self.stored.borrow().at + STORE_LIMIT).min(asked + SUBMIT_LIMIT);
        }
        asked.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_is_full_if_its_head_waits_too_long_with_more_than_a_batch() {
        let longer = MAX_WAIT + Duration::from_millis(1);
        assert!(is_behind(MAX_BATCH + 1, longer));
        assert!(
            !is_behind(MAX_BATCH, longer),
            "the next transaction takes them all"
        );
        assert!(!is_behind(MAX_QUEUE, MAX_WAIT));
    }
}
