//! Judges a history: every acknowledgement to a client or a worker must be in the database, and
//! every row must match the handlers' lines. Pure: rows and lines in, violations out.

mod attempts;
mod documents;
mod events;
pub mod history;
mod index;
mod order;
mod orders;
mod promises;
mod runs;
mod services;
mod states;
#[cfg(test)]
mod tests;
pub mod violation;

use self::{history::History, index::Index, violation::Violation};

/// All violations in a history.
pub fn check(history: &History) -> Vec<Violation> {
    let index = Index::of(history);
    let mut found = Vec::new();
    promises::check(&index, &mut found);
    states::check(&index, &mut found);
    attempts::check(&index, &mut found);
    runs::check(&index, &mut found);
    documents::check(&index, &mut found);
    order::check(&index, &mut found);
    orders::check(&index, &mut found);
    events::check(&index, &mut found);
    services::check(&index, &mut found);
    found
}
