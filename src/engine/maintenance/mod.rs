//! The loops in the background.

pub mod auditor;
pub mod leases;
pub mod repair;
pub mod retention;
pub mod services;
