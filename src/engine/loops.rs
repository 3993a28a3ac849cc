//! The running loops of the engine, and their end.

use std::{future::Future, time::Duration};

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

    /// Stops the loops and waits for their end, at most [`STOP_LIMIT`]. May be called twice.
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
    if let Err(error) = tokio::spawn(run).await
        && error.is_panic()
    {
        tracing::error!(name, "a loop of the engine has panicked");
        failed.cancel();
    }
}
