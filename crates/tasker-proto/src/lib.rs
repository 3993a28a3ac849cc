//! The gRPC protocol of Tasker, package `tasker.v1`: its messages, a client for each service, and
//! the descriptors of both.
//!
//! A handler service uses `tasker-worker`, which has a worker and a typed client on top of this
//! crate and re-exports it. The server generates its stubs itself, on the messages of this crate.
#![allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated"
)]

tonic::include_proto!("tasker.v1");

pub mod codec;

/// The types of timestamps and durations in the messages.
pub use prost_types;

/// The descriptors of the whole protocol: an encoded `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
