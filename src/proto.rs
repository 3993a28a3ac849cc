//! The wire types of `tasker.v1`, generated from `proto/`.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

tonic::include_proto!("tasker.v1");
