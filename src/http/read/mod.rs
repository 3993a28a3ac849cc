//! Reads a message of the protocol from a JSON body, a query and a path. One answer lists all
//! errors, each with its place. A nested document is copied unparsed; the engine checks it like all
//! documents.

mod body;
#[cfg(test)]
mod tests;
mod text;
mod violation;

pub use self::{
    body::body,
    text::{fits_a_query, texts},
    violation::MAX_VIOLATIONS,
};
