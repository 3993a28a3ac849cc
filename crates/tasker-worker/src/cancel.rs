//! The signal that asks a handler to stop, and its reason.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

use crate::proto;

/// Why a handler was asked to stop. Its return value is discarded from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CancelReason {
    /// The task was cancelled.
    TaskCancelled,
    /// The step's deadline passed.
    TimedOut,
    /// The server gave the attempt up, for instance because it received nothing from this worker
    /// for longer than the lease; another attempt may already run elsewhere.
    LeaseLost,
}

impl From<proto::CancelReason> for CancelReason {
    fn from(reason: proto::CancelReason) -> Self {
        match reason {
            proto::CancelReason::TaskCancelled => Self::TaskCancelled,
            proto::CancelReason::TimedOut => Self::TimedOut,
            // Whatever a newer server means by it, this worker has lost the attempt.
            proto::CancelReason::LeaseLost | proto::CancelReason::Unspecified => Self::LeaseLost,
        }
    }
}

/// Shared by a step's context and the worker that runs it. The first reason stays.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cancellation {
    token: CancellationToken,
    reason: Arc<OnceLock<CancelReason>>,
}

impl Cancellation {
    pub fn cancel(&self, reason: CancelReason) {
        // Before the token: a handler that the token wakes reads the reason at once.
        self.reason.get_or_init(|| reason);
        self.token.cancel();
    }

    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    pub fn reason(&self) -> Option<CancelReason> {
        self.reason.get().copied()
    }
}
