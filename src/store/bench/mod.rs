//! Statements of `tasker bench` and of tests: stored history to measure on, and the probes of a
//! measurement.

pub mod fixtures;
pub mod probes;
