//! The workers of this server: their slots, the lanes whose steps wait for them, and the assignment
//! of one to the other.

pub mod allocator;
pub mod assignment;
pub mod lanes;
pub mod message;
pub mod outbox;
pub mod registry;
pub mod reservation;
pub mod scans;
#[cfg(test)]
mod tests;
pub mod timer;
pub mod workers;
