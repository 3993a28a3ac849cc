//! The worker SDK: what a service links to perform steps of Tasker tasks.

mod builder;
mod cancel;
mod context;
mod error;
mod handle;
mod handler;
pub mod http;
mod runner;

pub use self::{
    builder::{
        BuildError, DEFAULT_CONCURRENT_STEPS, DEFAULT_DRAIN_TIMEOUT, MAX_CONCURRENT_STEPS,
        MAX_HANDLERS, MAX_LABELS, MAX_NAME_BYTES, MAX_NAMESPACES, WorkerBuilder,
    },
    cancel::CancelReason,
    context::StepContext,
    error::{PermanentError, RetryableError, StepError},
    handle::WorkerHandle,
    handler::Handler,
    runner::{Shutdown, Worker, WorkerError},
};

/// Most bytes of a step's result as JSON. A larger one fails the step with `RESULT_INVALID`.
pub const MAX_RESULT_BYTES: usize = 1 << 20;
/// Most bytes of an error's context as JSON. A larger one is left out.
pub const MAX_ERROR_CONTEXT_BYTES: usize = 64 << 10;
/// Most bytes of an error's message. The rest is cut off.
pub const MAX_MESSAGE_BYTES: usize = 8 << 10;
