//! What operators see of a server: counters, spans, and its health.

pub mod health;
pub mod listener;
pub mod metrics;
pub mod pulse;
pub mod traces;
