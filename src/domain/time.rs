//! The text form of a time: RFC 3339, always with a zone.

/// Whether a text has the form of RFC 3339, such as `2026-01-31T12:00:00.5Z` or
/// `2026-01-31T12:00:00+02:00`. The function does not check that the day exists. A text without a
/// zone is refused, since it means another moment on another machine.
pub fn is_rfc3339(text: &str) -> bool {
    // The position may be inside a character of an arbitrary text.
    let Some((start, rest)) = text.split_at_checked("0000-00-00T00:00:00".len()) else {
        return false;
    };
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => {
            let zone = fraction.trim_start_matches(|char: char| char.is_ascii_digit());
            if zone.len() == fraction.len() {
                return false;
            }
            zone
        }
        None => rest,
    };
    fits(start, "0000-00-00T00:00:00")
        && (matches!(zone, "Z" | "z") || fits(zone, "+00:00") || fits(zone, "-00:00"))
}

/// Whether a text has a form, in which `0` stands for any digit.
fn fits(text: &str, form: &str) -> bool {
    let pairs = text.bytes().zip(form.bytes());
    text.len() == form.len()
        && pairs.into_iter().all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            b'T' => byte.eq_ignore_ascii_case(&b'T'),
            _ => byte == form,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_without_a_zone_is_refused() {
        for text in [
            "2026-01-31T12:00:00Z",
            "2026-01-31t12:00:00z",
            "2026-01-31T12:00:00.123456789Z",
            "2026-01-31T12:00:00+02:00",
            "2026-01-31T12:00:00.5-11:30",
        ] {
            assert!(is_rfc3339(text), "{text}");
        }
        for text in [
            "",
            "2026-01-31",
            "2026-01-31T12:00:00",
            "2026-01-31T12:00:00.5",
            "2026-01-31T12:00Z",
            "2026-01-31 12:00:00Z",
            "2026-01-31T12:00:00.Z",
            "2026-01-31T12:00:00+02",
            "2026-01-31T12:00:00+0200",
            "2026-01-31T12:00:00 Z",
            "+2026-01-31T12:00:00Z",
            "2026-01-31T12:00:0é",
            "noon",
        ] {
            assert!(!is_rfc3339(text), "{text}");
        }
    }
}
