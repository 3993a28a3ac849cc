//! Malformed and hostile input over real gRPC: each input is refused with the right code and a
//! message, none of it is stored, no task panics, and the server goes on.
//!
//! Generated input comes from a printed seed; `TASKER_TEST_SEED` repeats a run.

mod contexts;
mod fuzz;
mod http1;
mod messages;
mod raw;
mod requests;
mod results;
mod streams;
#[path = "../support/mod.rs"]
mod support;
mod target;
mod templates;
