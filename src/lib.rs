pub mod proto;
#[cfg(feature = "worker")]
pub mod worker;
