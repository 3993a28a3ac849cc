//! The rules of the control plane as pure values and functions: no database, no network, no clock.

pub mod cycles;
pub mod json;
pub mod retry;
pub mod schema;
pub mod template;
mod words;
