//! JSON pointers (RFC 6901) and their form in the fragment of a URI.

use std::fmt::Write;

use serde_json::Value;

/// The most bytes of the pointers of all values of a schema: a long name repeats in the pointer of
/// each value below it.
pub(super) const MAX_POINTER_BYTES: usize = 16 * 1024 * 1024;

/// Whether the pointers of all values in `root` have at most [`MAX_POINTER_BYTES`] together.
pub(super) fn are_bounded(root: &Value) -> bool {
    let mut left = MAX_POINTER_BYTES;
    spend(root, 0, &mut left).is_some()
}

/// Takes the lengths of the pointers off `left`; `None` if it does not suffice.
fn spend(value: &Value, length: usize, left: &mut usize) -> Option<()> {
    *left = left.checked_sub(length)?;
    match value {
        Value::Object(map) => map
            .iter()
            .try_for_each(|(key, value)| spend(value, length + 1 + key.len(), left)),
        // An index has at most six digits in a template.
        Value::Array(items) => items
            .iter()
            .try_for_each(|value| spend(value, length + 7, left)),
        _ => Some(()),
    }
}

/// The pointer of `key` in the value at `parent`.
pub(super) fn join(parent: &str, key: &str) -> String {
    // `~` first: afterwards it would escape the `~` of `~1` again.
    format!("{parent}/{}", key.replace('~', "~0").replace('/', "~1"))
}

/// A pointer as the fragment of a URI, after the `#`.
pub(super) fn to_fragment(pointer: &str) -> String {
    pointer.bytes().fold(
        String::with_capacity(pointer.len()),
        |mut fragment, byte| {
            if byte.is_ascii_alphanumeric() || b"-._~/!$&'()*+,;=:@".contains(&byte) {
                fragment.push(char::from(byte));
            } else {
                let _ = write!(fragment, "%{byte:02X}"); // Writing to a string cannot fail.
            }
            fragment
        },
    )
}

/// The percent-decoded fragment; `None` if its escapes are malformed.
pub(super) fn from_fragment(fragment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, tail @ ..] = tail else {
            return None;
        };
        let digit = |byte: &u8| char::from(*byte).to_digit(16);
        bytes.push((digit(high)? * 16 + digit(low)?) as u8);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_round_trip_through_a_uri() {
        let pointer = join(&join("", "a b%c"), "~/é\"#");
        assert_eq!(pointer, "/a b%c/~0~1é\"#");
        let fragment = to_fragment(&pointer);
        assert_eq!(fragment, "/a%20b%25c/~0~1%C3%A9%22%23");
        assert_eq!(from_fragment(&fragment), Some(pointer));
    }

    #[test]
    fn invalid_percent_encoding_is_refused() {
        for fragment in ["%", "a%4", "%zz", "%ff"] {
            assert_eq!(from_fragment(fragment), None, "{fragment}");
        }
    }
}
