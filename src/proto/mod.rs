//! The protocol as the server uses it: the messages of `tasker-proto`, and the stubs that `build.rs`
//! generates on them.
#![allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated"
)]

pub use tasker_proto::*;

tonic::include_proto!("tasker.v1");

pub mod encoded;
