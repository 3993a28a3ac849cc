//! A private Postgres for `tasker dev`, the demo, the bench and the tests: found on the machine,
//! started on a free loopback port, and stopped with the process that started it, however that one
//! ends.
//!
//! `tasker server` does not use this module: it connects to a database that the user provides.

#![warn(missing_docs)]

mod cluster;
mod error;
#[cfg(feature = "fetch-postgres")]
mod fetch;
mod find;
mod home;
mod owner;
mod process;

pub use cluster::{Cluster, Options};
pub use error::Error;
#[cfg(feature = "fetch-postgres")]
pub use fetch::fetch;
pub use find::{BIN_VARIABLE, Binaries, FindError, MIN_MAJOR, find, find_major};
pub use home::{default_dir, made_by};
