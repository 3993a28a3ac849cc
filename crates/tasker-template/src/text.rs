//! Helpers for error messages: short quotes, and guesses at misspelt words.

use strsim::osa_distance;

/// A position in a text. Both from 1; columns count characters.
///
/// Texts are bounded far below 2^32 lines and columns; the type's maximum stands for a position
/// beyond.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pos {
    pub line: u32,
    pub column: u32,
}

impl Pos {
    pub const START: Pos = Pos { line: 1, column: 1 };

    pub fn of(line: usize, column: usize) -> Pos {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Pos {
            line: count(line),
            column: count(column),
        }
    }
}

/// Cuts a quoted value to 60 characters for an error message.
pub(super) fn shorten(text: &str) -> String {
    const MAX_CHARS: usize = 60;
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Cuts a message to 200 characters.
pub(super) fn cut(text: &str) -> String {
    const MAX_CHARS: usize = 200;
    match text.char_indices().nth(MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// The most candidates that are compared for one guess.
const MAX_CANDIDATES: usize = 1_000;

/// The text ", did you mean `x`?" for the closest candidate, or an empty text if none is close to
/// `word`.
pub(super) fn did_you_mean<'c>(
    word: &str,
    candidates: impl IntoIterator<Item = &'c str>,
) -> String {
    candidates
        .into_iter()
        .take(MAX_CANDIDATES)
        .filter_map(|candidate| Some((distance(word, candidate)?, candidate)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| format!(", did you mean `{}`?", shorten(candidate)))
        .unwrap_or_default()
}

/// The edit distance of two words in insertions, deletions, replacements and swaps of neighbours;
/// `None` if they are too far apart to be confused.
fn distance(word: &str, candidate: &str) -> Option<usize> {
    const LONGEST: usize = 40;
    let (a, b) = (word.to_lowercase(), candidate.to_lowercase());
    let shorter = a.len().min(b.len());
    if a.len().max(b.len()) > LONGEST || shorter < 2 {
        return None;
    }
    // Two edits turn a short word into too many others.
    let limit = if shorter < 5 { 1 } else { 2 };
    // The difference in length is a lower bound, which spares most comparisons.
    let edits = if a.len().abs_diff(b.len()) <= limit {
        osa_distance(&a, &b)
    } else {
        usize::MAX
    };
    if edits <= limit {
        return Some(edits);
    }
    // A part of the right word, as `retry_limit` for `default_retry_limit`, is far by edits.
    let contained = shorter >= 5 && (a.contains(&b) || b.contains(&a));
    contained.then_some(limit + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggestion_requires_a_small_distance() {
        let keys = ["name", "namespace", "default_retry_limit"];
        assert_eq!(did_you_mean("nmae", keys), ", did you mean `name`?");
        assert_eq!(did_you_mean("Name", keys), ", did you mean `name`?");
        assert_eq!(
            did_you_mean("namspace", keys),
            ", did you mean `namespace`?"
        );
        assert_eq!(
            did_you_mean("retry_limit", keys),
            ", did you mean `default_retry_limit`?"
        );
        for far in ["x", "colour", "nm", &"n".repeat(100)] {
            assert_eq!(did_you_mean(far, keys), "", "{far}");
        }
    }
}
