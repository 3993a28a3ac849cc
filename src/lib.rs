//! Tasker: a gRPC control plane that coordinates microservices and keeps the state of every workflow in Postgres.

#[cfg(feature = "server")]
pub mod postgres;
pub mod proto;
