//! Admission: whether a step may call its service now, by circuits, pauses and quota shares.
//!
//! A copy of the services' rows in memory. A claim states the admission version it was decided with,
//! and its transaction fails if the service has another one by then. So a stale copy costs a retry
//! and never admits a call.

pub mod circuits;
pub mod control;
pub mod quotas;
pub mod refresh;
pub mod reservation;
pub mod service;
pub mod services;
#[cfg(test)]
mod tests;
