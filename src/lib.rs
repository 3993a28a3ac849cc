#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "worker")]
pub mod client;
#[cfg(feature = "server")]
pub mod domain;
pub mod proto;
