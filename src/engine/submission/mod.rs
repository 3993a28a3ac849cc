//! Submits before they enter a transaction.

pub mod group;
pub mod prepare;
pub mod queue;
pub mod request;
pub mod validate;
