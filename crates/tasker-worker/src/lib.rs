//! The worker SDK, which a service links to perform steps of Tasker tasks, and a typed [`client`].
//!
//! A [`Worker`] is a set of named handlers. It connects to a Tasker server, gets steps over one
//! stream, runs them at most `max_concurrent_steps` at a time, and answers each with a result, a
//! [`RetryableError`] or a [`PermanentError`]. Tasker plans, retries, times out and remembers; a
//! handler only does its step.
//!
//! ```no_run
//! use serde::{Deserialize, Serialize};
//! use tasker_worker::{PermanentError, StepContext, StepError, Worker, http};
//!
//! #[derive(Deserialize)]
//! struct Registration {
//!     plan: String,
//! }
//!
//! #[derive(Deserialize)]
//! struct Account {
//!     user_id: u64,
//! }
//!
//! #[derive(Serialize)]
//! struct BillingProfile {
//!     billing_id: String,
//! }
//!
//! async fn setup_billing_profile(step: StepContext) -> Result<BillingProfile, StepError> {
//!     let registration: Registration = step.context()?;
//!     let account: Account = step.result_of("create_user_account")?;
//!
//!     let call = post_profile(account.user_id, &registration.plan, step.idempotency_key());
//!     let (status, headers) = tokio::time::timeout(step.remaining(), call)
//!         .await
//!         .map_err(|_| http::timeout("billing_service"))?
//!         .map_err(|error| http::connection_error("billing_service", &error))?;
//!     if status == 402 {
//!         return Err(PermanentError::new("the card was declined").error_code("CARD_DECLINED"))?;
//!     }
//!     http::check("billing_service", status, &headers)?;
//!     Ok(BillingProfile { billing_id: format!("bill_{}", account.user_id) })
//! }
//!
//! # async fn post_profile(_user: u64, _plan: &str, _key: &str)
//! #     -> Result<(::http::StatusCode, ::http::HeaderMap), std::io::Error> {
//! #     Ok((::http::StatusCode::CREATED, ::http::HeaderMap::new()))
//! # }
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     Worker::builder(["http://127.0.0.1:7233"])
//!         .name("billing-1")
//!         .namespaces(["user_management"])
//!         .max_concurrent_steps(32)
//!         .handler("UserManagement::StepHandlers::SetupBillingProfileHandler", setup_billing_profile)
//!         .build()?
//!         .run()
//!         .await?;
//!     Ok(())
//! }
//! ```
//!
//! # Guarantees of a worker
//!
//! - **A result counts when the server has committed it.** The worker keeps each result until its
//!   acknowledgement and sends it again after a reconnect, to any server; the lease of the attempt
//!   makes a repeated result harmless.
//! - **Losing the server disturbs no handler.** Handlers continue while the worker reconnects,
//!   through all its addresses, for as long as it takes, and claims the leases it still holds.
//! - **A handler cannot take the worker down.** A panic is a retryable error with the code
//!   `HANDLER_PANIC`. A handler that blocks its thread stops other handlers of its runtime, but not
//!   the heartbeats. A cancelled handler is dropped after five seconds.
//! - **A shutdown is orderly.** The worker takes no more steps, releases those it has not started,
//!   and finishes the others within its drain timeout.
//!
//! # Duties of a handler
//!
//! A step runs at least once: a worker can die after the service did its part and before the result
//! is committed. Give [`StepContext::idempotency_key`] to the service, or check whether the work is
//! done already. Long work should also watch [`StepContext::cancelled`].

mod builder;
mod cancel;
pub mod client;
mod config;
mod connection;
mod context;
mod error;
mod handle;
mod handler;
pub mod http;
mod link;
mod outage;
mod outcome;
mod plan;
mod runner;
mod shutdown;
mod steps;
mod stop;
#[cfg(feature = "otel")]
pub mod telemetry;

/// The messages and the clients of the protocol.
pub use tasker_proto as proto;

pub use self::{
    builder::{
        BuildError, DEFAULT_CONCURRENT_STEPS, DEFAULT_DRAIN_TIMEOUT, MAX_ADDRESSES,
        MAX_CONCURRENT_STEPS, MAX_HANDLERS, MAX_LABELS, MAX_NAME_BYTES, MAX_NAMESPACES,
        WorkerBuilder,
    },
    cancel::CancelReason,
    context::StepContext,
    error::{PermanentError, RetryableError, StepError},
    handle::WorkerHandle,
    handler::Handler,
    outcome::{
        MAX_ERROR_CODE_BYTES, MAX_ERROR_CONTEXT_BYTES, MAX_ERROR_MESSAGE_BYTES, MAX_RESULT_BYTES,
    },
    plan::{Backoff, Plan, PlannedStep, StepPlan},
    runner::Worker,
    shutdown::{Shutdown, WorkerError},
};

/// The example of the README, compiled with the documentation tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
