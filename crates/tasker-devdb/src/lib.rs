//! A private Postgres for `tasker dev`, the demo, the bench and the tests: found on the machine,
//! started on a free loopback port, and stopped with the process that started it, however that one
//! ends.
//!
//! `tasker server` does not use this crate: it connects to a database that the user provides.

mod cluster;
mod error;
mod find;
mod home;
mod options;
mod owner;
mod process;
mod tree;

pub use cluster::Cluster;
pub use error::Error;
pub use find::{BIN_VARIABLE, Binaries, FindError, MIN_MAJOR, find, find_major};
pub use home::{default_dir, made_by};
pub use options::Options;
