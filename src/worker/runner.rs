//! A worker, and the ways to run it.

use std::future::Future;

use thiserror::Error;

use super::{WorkerBuilder, WorkerHandle, builder::Config};

/// A set of handlers that serves a Tasker cluster.
pub struct Worker {
    pub(super) config: Config,
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shutdown {
    /// Handlers that did not finish within the drain timeout and were dropped.
    pub unfinished_steps: usize,
    /// Results that no server acknowledged; their steps run again elsewhere.
    pub unacked_results: usize,
}

/// Why a worker cannot go on.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WorkerError {}

impl Worker {
    /// Starts a worker for a cluster: one or several addresses of its servers, like
    /// `http://127.0.0.1:7233`.
    pub fn builder(addresses: impl IntoIterator<Item = impl Into<String>>) -> WorkerBuilder {
        WorkerBuilder::new(addresses)
    }

    /// Runs until SIGTERM or SIGINT, then drains.
    pub async fn run(self) -> Result<Shutdown, WorkerError> {
        self.run_until(std::future::pending()).await
    }

    /// Runs until the future resolves, then drains.
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> Result<Shutdown, WorkerError> {
        stop.await;
        Ok(Shutdown::default())
    }

    /// Runs in the background.
    pub fn spawn(self) -> WorkerHandle {
        WorkerHandle {}
    }
}
