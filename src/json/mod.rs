//! The messages of the protocol as JSON, the same over HTTP and on the command line.
//!
//! Field names are those of the protocol. A field `*_json` is a nested document under its name
//! without `_json`; an enum is a short lowercase word; a time is RFC 3339 and a duration such as
//! `"1.5s"`. Every key is always present: an unset field is `null`.

pub mod protocol;
mod write;

pub use self::write::{dynamic, text, value, values};
