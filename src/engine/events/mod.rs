//! Delivery to subscribers: of the event log, and of changes of single tasks.

pub mod filter;
pub mod named;
pub mod reader;
pub mod subscription;
pub mod watch;
