//! Page tokens: opaque to the client, and bound to a filter.

use std::hash::{DefaultHasher, Hash, Hasher as _};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tonic::Status;

use super::{convert, error::invalid};

/// Bound on the messages of a page, in bytes: every client accepts it by default, with the rest of
/// the answer.
pub const MAX_PAGE_BYTES: usize = 3 << 20;

/// Number of these messages that fit on a page, at least the first one.
pub fn fitting<M: prost::Message>(items: &[M]) -> usize {
    let mut bytes = 0;
    let fits = |item: &&M| {
        bytes += item.encoded_len();
        bytes <= MAX_PAGE_BYTES
    };
    // At least one, however large it is: an empty page would end the list.
    items
        .iter()
        .take_while(fits)
        .count()
        .max(1)
        .min(items.len())
}

/// A token for the position after `last` in the list that `filter` selects.
pub fn token(filter: &impl Hash, last: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode([&fingerprint(filter)[..], last].concat())
}

/// The position in a token; `None` for the first page.
pub fn place(filter: &impl Hash, token: &str) -> Result<Option<Vec<u8>>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    // The fingerprint has eight bytes, and a position at least one.
    let bytes = URL_SAFE_NO_PAD.decode(token).ok().filter(|b| b.len() > 8);
    let Some((print, last)) = bytes.as_deref().map(|b| b.split_at(8)) else {
        return Err(invalid(
            "page_token",
            "not a token of this server: copy `next_page_token` unchanged",
        ));
    };
    if print != fingerprint(filter) {
        return Err(invalid(
            "page_token",
            "made for another filter: start again without a token",
        ));
    }
    Ok(Some(last.to_vec()))
}

/// A position that consists of two names.
pub fn of_names(first: &str, second: &str) -> Vec<u8> {
    format!("{first}\0{second}").into_bytes()
}

/// The two names of such a position. A token comes from a client like any other text, so it may be
/// forged.
pub fn names(place: &[u8]) -> Result<(String, String), Status> {
    let text = std::str::from_utf8(place).ok();
    let names = text.and_then(|text| text.split_once('\0')).filter(|names| {
        [names.0, names.1]
            .iter()
            .all(|name| convert::name("", name).is_ok())
    });
    let (first, second) = names.ok_or_else(|| {
        invalid(
            "page_token",
            "not a token of this list: start again without one",
        )
    })?;
    Ok((first.to_owned(), second.to_owned()))
}

/// A page size within its bounds; 0 selects the default.
pub fn size(asked: i32, default: usize, max: usize) -> Result<usize, Status> {
    match usize::try_from(asked) {
        Ok(0) => Ok(default),
        Ok(n) if n <= max => Ok(n),
        _ => Err(invalid(
            "page_size",
            format!("{asked} is out of bounds: expected 0 to {max}"),
        )),
    }
}

/// Not a secret: it detects mistakes. `DefaultHasher::new()` has fixed keys, so tokens outlive a
/// restart.
fn fingerprint(filter: &impl Hash) -> [u8; 8] {
    let mut hasher = DefaultHasher::new();
    filter.hash(&mut hasher);
    hasher.finish().to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_holds_the_items_that_fit_and_at_least_one() {
        // A tag and a length precede so many characters: four bytes.
        let of = |bytes: &[usize]| {
            fitting(
                &bytes
                    .iter()
                    .map(|n| "x".repeat(n - 4))
                    .collect::<Vec<String>>(),
            )
        };
        let half = MAX_PAGE_BYTES / 2;
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[half, half, 10]), 2);
        assert_eq!(of(&[half, half + 1]), 1);
        assert_eq!(of(&[2 * MAX_PAGE_BYTES, 10]), 1);
    }

    #[test]
    fn page_token_of_another_origin_is_refused() {
        let (namespace, service) = ("a".repeat(255), String::new());
        assert_eq!(
            names(&of_names(&namespace, &service)).ok(),
            Some((namespace, service))
        );
        for forged in [
            &b""[..],
            b"ab",
            b"a\0b\0c",
            b"\xff\0",
            &of_names(&"a".repeat(256), ""),
        ] {
            let refused = names(forged).expect_err("forged");
            assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{forged:?}");
        }
    }
}
