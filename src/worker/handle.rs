//! A worker that runs in the background.

use tokio_util::sync::DropGuard;

use super::{Shutdown, WorkerError, runner::Running};

/// A worker that runs in the background; made by [`Worker::spawn`](super::Worker::spawn).
///
/// Dropping it starts a [`shutdown`](Self::shutdown) without waiting for its end.
#[derive(Debug)]
#[must_use = "dropping the handle shuts the worker down"]
pub struct WorkerHandle {
    running: Running,
    drain: DropGuard,
}

impl WorkerHandle {
    pub(super) fn new(running: Running) -> Self {
        let drain = running.soft.clone().drop_guard();
        Self { running, drain }
    }

    /// Drains the worker and waits for its end, at most for its drain timeout.
    ///
    /// # Errors
    /// If the worker had ended before: the server refused its registration, or the process lacked
    /// resources.
    pub async fn shutdown(self) -> Result<Shutdown, WorkerError> {
        drop(self.drain);
        self.running.ended().await
    }

    /// The id that the server assigned at the last connection; `None` before the first.
    pub fn worker_id(&self) -> Option<String> {
        self.running.state.borrow().worker_id.clone()
    }

    /// Whether the worker is registered with a server now.
    pub fn is_connected(&self) -> bool {
        self.running.state.borrow().connected
    }

    /// Waits until the worker is registered with a server; false if it ended before.
    pub async fn connected(&self) -> bool {
        let mut state = self.running.state.clone();
        state.wait_for(|state| state.connected).await.is_ok()
    }
}
