//! Workflows and their transitions: pure types and decisions, without a database, a network or a
//! clock.

pub mod analytics;
pub mod attempt;
pub mod circuit;
pub mod event;
pub mod explain;
pub mod lease;
pub mod order;
pub mod policy;
pub mod progress;
pub mod quota;
pub mod repair;
pub mod size;
pub mod step;
pub mod task;
pub mod time;
pub mod worker;
