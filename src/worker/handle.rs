//! A worker that runs in the background.

use super::{Shutdown, WorkerError};

/// A worker that runs in the background.
pub struct WorkerHandle {}

impl WorkerHandle {
    /// Drains the worker and waits for its end.
    pub async fn shutdown(self) -> Result<Shutdown, WorkerError> {
        Ok(Shutdown::default())
    }

    /// The id the server gave the worker; `None` before the first connection.
    pub fn worker_id(&self) -> Option<String> {
        None
    }

    /// Whether the worker is registered with a server now.
    pub fn is_connected(&self) -> bool {
        false
    }

    /// Waits until the worker is registered with a server.
    pub async fn connected(&self) {}
}
