//! Tasker: a gRPC control plane that coordinates microservices and keeps the state of every
//! workflow in Postgres.
//!
//! A service that performs steps links this crate with
//! `default-features = false, features = ["worker"]`: it then gets `worker` and `client` alone.
//! Everything else is the control plane and its command line.

#[cfg(feature = "server")]
pub mod bench;
#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "worker")]
pub mod client;
#[cfg(feature = "server")]
pub mod domain;
#[cfg(feature = "server")]
pub mod engine;
#[cfg(feature = "server")]
pub mod grpc;
#[cfg(feature = "server")]
pub mod http;
#[cfg(feature = "server")]
pub mod json;
#[cfg(feature = "server")]
pub mod postgres;
pub mod proto;
#[cfg(feature = "server")]
pub mod server;
#[cfg(feature = "server")]
pub mod store;
#[cfg(feature = "otel")]
pub mod telemetry;
#[cfg(feature = "worker")]
pub mod worker;
