//! Where documents are parsed and judged: schemas, conditions, planners' answers and overrides run on a few threads of their
//! own, never on the threads that calls and loops run on, and never inside a transaction.
//!
//! Neither a schema's validator nor an expression's evaluation can be interrupted. Their cost is bounded before they begin
//! (`domain`); for what that bound misses, a judgement that runs longer than [`MAX_JUDGING_TIME`] is given up: its input ends,
//! and its thread is replaced as long as no more than [`MAX_ABANDONED`] are given up. Turns go round between the namespaces,
//! so that one whose judgements take long keeps waiting nothing but its own.

mod shares;
#[cfg(test)]
mod tests;
mod threads;
mod turns;

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

pub use self::{
    shares::{Share, Shares},
    turns::Turn,
};
use self::{threads::Threads, turns::Turns};
use super::metrics::Metrics;

/// How many judgements run at once.
pub const THREADS: usize = 2;
/// How many inputs have a turn at once: those that run, and those whose documents are read meanwhile.
const TURNS: usize = 2 * THREADS;
/// How long one judgement may run.
pub const MAX_JUDGING_TIME: Duration = Duration::from_secs(2);
/// How many threads may be given up while they still run. Then no more are started, and what is to be judged waits.
pub const MAX_ABANDONED: usize = 8;
/// Up to here a document is judged where it is, in bytes: that takes some microseconds, less than the way to another thread.
pub const SMALL_BYTES: usize = 4 << 10;
/// The budget of what is judged where it is, in steps; what needs more goes to the judging threads.
pub const SMALL_STEPS: u64 = 2_000;

/// Why there is no verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unjudged {
    #[error("the judgement took more than {} s", MAX_JUDGING_TIME.as_secs())]
    TooLong,
    #[error("the judgement failed; the server's log says more")]
    Failed,
    #[error("the server is shutting down")]
    Closed,
}

/// The judging threads and the turns on them. Cheap to clone; the threads end with the last clone.
#[derive(Clone)]
pub struct Judge(Arc<Pool>);

struct Pool {
    turns: Turns,
    threads: Arc<Threads>,
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.threads.close();
    }
}

impl Judge {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self::with(metrics, MAX_JUDGING_TIME)
    }

    fn with(metrics: Arc<Metrics>, limit: Duration) -> Self {
        Self(Arc::new(Pool {
            turns: Turns::new(TURNS),
            threads: Threads::new(metrics, limit),
        }))
    }

    /// Waits for a turn of this namespace.
    pub async fn turn(&self, namespace: &str) -> Turn {
        self.0.turns.take(namespace).await
    }

    /// Runs `work` on a judging thread, and keeps the turn for as long as it runs or until it is given up, even where the caller
    /// goes away.
    pub async fn run<T: Send + 'static>(
        &self,
        turn: Turn,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Unjudged> {
        let (reply, answer) = oneshot::channel();
        self.0.threads.run(turn, reply, work);
        answer.await.unwrap_or(Err(Unjudged::Closed))
    }

    /// How many inputs wait for their turn.
    pub fn waiting(&self) -> usize {
        self.0.turns.waiting()
    }

    /// Whether every thread is stuck and no more may be started: nothing can be judged until one comes back.
    pub fn is_stuck(&self) -> bool {
        self.0.threads.is_stuck()
    }
}
