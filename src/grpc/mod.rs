//! The gRPC surface: one file per service, each rpc no more than convert → call → convert, and one
//! module that makes statuses from errors.

mod actor;
pub mod analytics;
mod bulk;
pub mod circuit;
pub mod convert;
pub mod encoded_event;
pub mod error;
pub mod event;
mod explain;
pub mod fallback;
mod find;
mod fit;
pub mod frames;
pub mod gzip;
mod order;
pub mod page;
mod pause;
pub mod room;
mod submission;
pub mod task;
pub mod template;
pub mod watch;
pub mod worker;
mod worker_messages;

/// Bound on a message. Each field has a tighter bound of its own, which the refusal names.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;
