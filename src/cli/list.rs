//! Paging and printing, shared by all lists.

use serde_json::Map;

use super::{Session, error::CliError, render::table::Table};
use crate::json;

/// Fetches all pages: `page` takes the token of the next page, empty for the first one, and returns
/// its items and the token after it, empty at the end.
pub async fn all<T>(
    mut page: impl AsyncFnMut(String) -> Result<(Vec<T>, String), CliError>,
) -> Result<Vec<T>, CliError> {
    let (mut all, mut token) = (Vec::new(), String::new());
    loop {
        let (items, next) = page(token).await?;
        all.extend(items);
        if next.is_empty() {
            return Ok(all);
        }
        token = next;
    }
}

/// Prints `{"name": […]}` with `--json`, else a table, or the text `nothing` if there are no items.
pub fn print<M: prost::Name>(
    session: &Session,
    name: &str,
    items: &[M],
    nothing: &str,
    table: impl FnOnce(&[M]) -> Table,
) -> Result<(), CliError> {
    if session.json() {
        session
            .term
            .json(&Map::from_iter([(name.to_owned(), json::values(items))]).into())?;
    } else if items.is_empty() {
        session.term.say(nothing);
    } else {
        session.term.data(&table(items).render(&session.term))?;
    }
    Ok(())
}
