//! Tasker: a gRPC control plane that coordinates microservices and keeps the state of every
//! workflow in Postgres.
//!
//! This crate is the control plane and its command line. A service that performs steps uses
//! `tasker-worker`.

pub mod bench;
pub mod cli;
pub mod domain;
pub mod engine;
pub mod grpc;
pub mod http;
pub mod json;
pub mod proto;
pub mod server;
pub mod store;

pub use tasker_worker::telemetry;
