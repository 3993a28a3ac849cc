//! The running loops of the engine, and their end.

use std::{future::Future, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt as _;
use tokio::task::JoinHandle;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Maximum wait for the loops to end.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// The running loops, and the tokens that end them. Cheap to clone.
#[derive(Clone, Default)]
pub struct Loops {
    shutdown: CancellationToken,
    /// Cancelled when a loop has panicked.
    failed: CancellationToken,
    running: TaskTracker,
}

impl Loops {
    /// The token that ends the loops.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// Starts a loop, which has to end when its token is cancelled.
    pub fn start<F: Future<Output = ()> + Send + 'static>(
        &self,
        name: &'static str,
        run: impl FnOnce(CancellationToken) -> F,
    ) {
        self.running.spawn(guarded(
            name,
            run(self.shutdown.clone()),
            self.failed.clone(),
        ));
    }

    /// Starts a task of a loop. It is dropped when the loops are asked to stop, and then has no
    /// output.
    pub fn spawn<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<Option<T>> {
        self.spawn_until(self.shutdown.clone().cancelled_owned(), task)
    }

    /// Starts a task of a loop. It is dropped at the given end, which may be after the shutdown.
    pub fn spawn_until<T: Send + 'static>(
        &self,
        end: impl Future<Output = ()> + Send + 'static,
        task: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<Option<T>> {
        self.running.spawn(async move {
            tokio::select! {
                () = end => None,
                output = task => Some(output),
            }
        })
    }

    /// Declares that every loop has been started, so that `stop` can wait for all of them.
    pub fn all_started(&self) {
        self.running.close();
    }

    /// Resolves when a loop has panicked.
    pub async fn failed(&self) {
        self.failed.cancelled().await;
    }

    /// Resolves when the loops are asked to stop.
    pub async fn stopping(&self) {
        self.shutdown.cancelled().await;
    }

    /// Stops the loops and waits for their end, at most 5 s. May be called twice.
    pub async fn stop(&self) {
        self.shutdown.cancel();
        let _ = tokio::time::timeout(STOP_LIMIT, self.running.wait()).await;
    }
}

/// Runs a loop, and reports a panic in it.
async fn guarded(
    name: &'static str,
    run: impl Future<Output = ()> + Send + 'static,
    failed: CancellationToken,
) {
    // The loop's state is not used after a panic: the process exits.
    if AssertUnwindSafe(run).catch_unwind().await.is_err() {
        tracing::error!(name, "a loop of the engine has panicked");
        failed.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stop_drops_the_tasks_of_the_loops_and_waits_for_it() {
        let (loops, ended) = (Loops::default(), CancellationToken::new());
        let on_drop = ended.clone().drop_guard();
        loops.spawn(async move {
            let _on_drop = on_drop;
            std::future::pending::<()>().await;
        });
        let (end, last) = (CancellationToken::new(), CancellationToken::new());
        let on_drop = last.clone().drop_guard();
        loops.spawn_until(end.clone().cancelled_owned(), async move {
            let _on_drop = on_drop;
            std::future::pending::<()>().await;
        });
        loops.all_started();
        let stopped = tokio::spawn({
            let loops = loops.clone();
            async move { loops.stop().await }
        });
        ended.cancelled().await;
        assert!(
            !last.is_cancelled() && !stopped.is_finished(),
            "its end has not come"
        );
        end.cancel();
        stopped.await.expect("it ends");
        assert!(last.is_cancelled());
    }
}
