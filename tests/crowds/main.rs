//! Orders to thousands of tasks, with servers and clients that are killed in the middle; one test
//! at a time.

#[path = "../support/mod.rs"]
mod support;

mod bulk;
mod many;
mod pauses;
