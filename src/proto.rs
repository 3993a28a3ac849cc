//! The wire types of `tasker.v1`, generated from `proto/`.
#![allow(missing_docs, clippy::all, clippy::pedantic, clippy::restriction, reason = "generated")]

tonic::include_proto!("tasker.v1");
