//! A worker that runs in the background.

use std::{
    convert::Infallible,
    future::{Future, pending},
    io,
    panic::resume_unwind,
    thread::JoinHandle,
};

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    link::LinkState,
    shutdown::{Shutdown, WorkerError},
};

/// A worker that runs in the background; made by [`Worker::spawn`](crate::Worker::spawn).
///
/// Dropping it starts a [`shutdown`](Self::shutdown) without waiting for its end.
#[derive(Debug)]
#[must_use = "dropping the handle shuts the worker down"]
pub struct WorkerHandle {
    running: Running,
    drain: DropGuard,
}

impl WorkerHandle {
    pub(crate) fn new(running: Running) -> Self {
        let drain = running.soft.clone().drop_guard();
        Self { running, drain }
    }

    /// Drains the worker and waits for its end, at most for its drain timeout.
    ///
    /// # Errors
    /// If the worker had ended before: the server refused its registration, or the process lacked
    /// resources.
    pub async fn shutdown(self) -> Result<Shutdown, WorkerError> {
        // The end of the guard cancels `soft`, by which the worker drains.
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

/// A worker on its thread.
#[derive(Debug)]
pub(crate) struct Running {
    pub soft: CancellationToken,
    pub hard: CancellationToken,
    pub state: watch::Receiver<LinkState>,
    /// Cancelled when the thread has ended.
    pub ended: CancellationToken,
    pub thread: io::Result<JoinHandle<Result<Shutdown, WorkerError>>>,
}

impl Running {
    /// Waits for the end. A panic of the worker's thread resumes here.
    pub async fn ended(self) -> Result<Shutdown, WorkerError> {
        self.ended.cancelled().await;
        let thread = self.thread.map_err(WorkerError::Thread)?;
        thread.join().unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Waits for the end while it polls `stop`, which may bring the end about. Dropped early, it
    /// ends the worker at once.
    pub async fn ended_beside(
        self,
        stop: impl Future<Output = ()>,
    ) -> Result<Shutdown, WorkerError> {
        // Effective when the caller drops this future; after the end, the signal has no receiver.
        let _end_at_once = self.hard.clone().drop_guard();
        let stop = async {
            stop.await;
            // Only the end of the worker resolves the select, also after the stop signal.
            pending::<Infallible>().await
        };
        tokio::select! {
            ended = self.ended() => ended,
            never = stop => match never {},
        }
    }
}
