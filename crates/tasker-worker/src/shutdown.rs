//! How a worker ends: in order, or with an error.

use std::io;

use thiserror::Error;
use tonic::Code;

/// How a worker ended: all zero if nothing was left unfinished. Unfinished work runs again on
/// another worker, at no cost to the attempts of a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shutdown {
    /// Steps that did not end within the drain timeout; their handlers were dropped.
    pub unfinished_steps: usize,
    /// Results that no server acknowledged in that time.
    pub unacked_results: usize,
}

/// Why a worker cannot continue. An unreachable server is no reason: the worker waits for it.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The server refuses this worker, and a retry is useless.
    #[error(
        "the server at {address} refuses this worker ({code:?}): {message}; correct the worker's \
         settings, or bring worker and server to the same version, and start the worker again"
    )]
    Refused {
        /// The address of the server.
        address: String,
        /// `INVALID_ARGUMENT` or `FAILED_PRECONDITION`.
        code: Code,
        /// The server's message.
        message: String,
    },
    /// The worker's thread or its reactor could not be created.
    #[error("cannot start the worker's thread; check the limits of threads and open files")]
    Thread(#[source] io::Error),
    /// The signal handlers could not be installed.
    #[error("cannot listen for signals; use `run_until` with your own stop signal")]
    Signals(#[source] io::Error),
}
