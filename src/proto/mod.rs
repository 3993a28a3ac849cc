//! The wire types of `tasker.v1`, generated from `proto/`.
#![allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated"
)]

tonic::include_proto!("tasker.v1");

pub mod codec;
#[cfg(feature = "server")]
pub mod encoded;

/// The descriptors of the whole protocol, for reflection.
#[cfg(feature = "server")]
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
