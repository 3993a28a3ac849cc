//! The messages to a worker.

use std::time::Duration;

use super::assignment::Assignment;
use crate::domain::lease::Lease;

/// The reason for asking a worker to stop a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelReason {
    TaskCancelled,
    TimedOut,
    LeaseLost,
}

/// A message on a worker's stream.
pub enum ToWorker {
    Assign(Box<Assignment>),
    Ack {
        lease: Lease,
        accepted: bool,
    },
    Cancel {
        lease: Lease,
        step_name: String,
        reason: CancelReason,
    },
    Draining {
        grace: Duration,
    },
    /// The stream ends because the worker registered elsewhere or was given up.
    Superseded,
    /// The stream ends because the server shuts down.
    Closing,
    /// The stream ends because the server has lost its database; the worker continues at another
    /// server.
    CutOff,
}

impl ToWorker {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Assign(assignment) => assignment.bytes(),
            _ => 0,
        }
    }
}
