#[cfg(feature = "server")]
pub mod postgres;
pub mod proto;
