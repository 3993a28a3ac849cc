//! The evaluation threads. Schemas, conditions, planners' answers and overrides are evaluated on a
//! few threads of their own, and never inside a transaction. Only small documents are evaluated on
//! the threads of calls and loops ([`SMALL_BYTES`], [`SMALL_STEPS`]).
//!
//! Neither a schema's validator nor an expression's evaluation can be interrupted. Their cost is
//! bounded before they begin (`domain`). For what that bound misses, an evaluation that runs longer
//! than [`MAX_JUDGING_TIME`] is abandoned: its input ends, and its thread is replaced while no more
//! than `MAX_ABANDONED` are abandoned. Turns rotate between the namespaces, so a namespace with
//! long evaluations delays only itself.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{
    threads::{MAX_JUDGING_TIME, NoVerdict, THREADS, Threads},
    turns::{Turn, Turns},
};
use crate::engine::{loops::Loops, observe::metrics::Metrics};

/// Inputs that have a turn at once: those being evaluated, and those whose documents are read
/// meanwhile.
const TURNS: usize = 2 * THREADS;
/// Maximum size of a document that is evaluated in place, in bytes: that takes microseconds, less
/// than the way to another thread.
pub const SMALL_BYTES: usize = 4 << 10;
/// The budget of an evaluation in place, in steps; larger ones go to the evaluation threads.
pub const SMALL_STEPS: u64 = 2_000;

/// The evaluation threads and their turns. Cheap to clone; the threads end with the last clone.
#[derive(Clone)]
pub struct EvaluationPool(Arc<Pool>);

struct Pool {
    turns: Turns,
    threads: Arc<Threads>,
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.threads.close();
    }
}

impl EvaluationPool {
    pub fn new(metrics: Arc<Metrics>, loops: Loops) -> Self {
        Self::with(metrics, loops, MAX_JUDGING_TIME)
    }

    fn with(metrics: Arc<Metrics>, loops: Loops, limit: Duration) -> Self {
        Self(Arc::new(Pool {
            turns: Turns::new(TURNS),
            threads: Threads::new(metrics, loops, limit),
        }))
    }

    /// Waits for a turn of this namespace.
    pub async fn turn(&self, namespace: &str) -> Turn {
        self.0.turns.take(namespace).await
    }

    /// Runs `work` on an evaluation thread. The turn is held until the work ends or is abandoned,
    /// even if the caller goes away.
    pub async fn run<T: Send + 'static>(
        &self,
        turn: Turn,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, NoVerdict> {
        let (reply, answer) = oneshot::channel();
        self.0.threads.run(turn, reply, work);
        answer.await.unwrap_or(Err(NoVerdict::Closed))
    }

    /// The number of inputs that wait for a turn.
    pub fn waiting(&self) -> usize {
        self.0.turns.waiting()
    }

    /// Whether every thread is stuck and no more may be started, so that no evaluation can run.
    pub fn is_stuck(&self) -> bool {
        self.0.threads.is_stuck()
    }
}
