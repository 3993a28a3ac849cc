//! Random histories of calls against a real server and against a small model of its specification.
//! After every call the two must agree; where they do not, the history is shrunk to the few calls
//! that matter.
//!
//! `TASKER_TEST_SEED` repeats a run, `MODEL_SECONDS` sets the duration of the search.

mod model;
mod op;
mod run;
mod search;
mod shapes;
mod shrink;
#[path = "../support/mod.rs"]
mod support;
mod view;
