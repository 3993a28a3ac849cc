#[cfg(feature = "server")]
pub mod domain;
pub mod proto;
