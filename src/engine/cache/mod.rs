//! Copies of rows that this server needs again and again.

pub mod attempts;
pub mod backlog;
pub mod payloads;
pub mod templates;
