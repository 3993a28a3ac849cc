#[cfg(feature = "server")]
pub mod cli;
#[cfg(feature = "worker")]
pub mod client;
pub mod proto;
