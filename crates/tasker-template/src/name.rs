//! The one grammar of names: of namespaces, templates, steps, handlers and services.
//!
//! Separators are not allowed in names, so that each legal name can be written on a command line
//! (`NAMESPACE/NAME@VERSION`), in an annotation (`KEY=VALUE`), in a list (`a,b`), in an expression
//! (`${...}`) and between two slashes of an HTTP path. Invisible characters are not allowed either,
//! so that a terminal shows a name completely.

/// Longest namespace, task name, version, step name, handler name or service name, in bytes.
pub const MAX_NAME_BYTES: usize = 255;

/// The separators between names, or between a name and another element, in one line.
const SEPARATORS: [char; 5] = ['/', '@', ',', '*', '='];
/// The start of an expression inside a text.
const INTERPOLATION: &str = "${";
/// The ranges of characters that a terminal does not show or that change the direction of text: the
/// property `Default_Ignorable_Code_Point` of Unicode 17.0 (`DerivedCoreProperties.txt`), which
/// contains the marks and overrides of direction, the variation selectors and the tags. ZERO WIDTH
/// NON-JOINER and JOINER (U+200C, U+200D) are left out, since the spelling of some languages and
/// the composition of emoji need them.
const INVISIBLE: [(char, char); 18] = [
    ('\u{ad}', '\u{ad}'),
    ('\u{34f}', '\u{34f}'),
    ('\u{61c}', '\u{61c}'),
    ('\u{115f}', '\u{1160}'),
    ('\u{17b4}', '\u{17b5}'),
    ('\u{180b}', '\u{180f}'),
    ('\u{200b}', '\u{200b}'),
    ('\u{200e}', '\u{200f}'),
    ('\u{202a}', '\u{202e}'),
    ('\u{2060}', '\u{206f}'),
    ('\u{3164}', '\u{3164}'),
    ('\u{fe00}', '\u{fe0f}'),
    ('\u{feff}', '\u{feff}'),
    ('\u{ffa0}', '\u{ffa0}'),
    ('\u{fff0}', '\u{fff8}'),
    ('\u{1bca0}', '\u{1bca3}'),
    ('\u{1d173}', '\u{1d17a}'),
    ('\u{e0000}', '\u{e0fff}'),
];

/// Checks a name that is about to be stored.
///
/// # Errors
/// The problem and the expected form, without the name of the field.
pub fn check(name: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("expected a name, found an empty string".to_owned());
    }
    if name.len() > MAX_NAME_BYTES {
        return Err(format!(
            "the name has {} bytes, but at most {MAX_NAME_BYTES} are allowed",
            name.len()
        ));
    }
    // HTTP clients resolve such segments away before the server sees the path.
    if name == "." || name == ".." {
        return Err(format!(
            "the name `{name}` is a step in a path; expected another name"
        ));
    }
    if name.contains(INTERPOLATION) {
        return Err(format!(
            "a name must not contain `{INTERPOLATION}`, which begins an expression"
        ));
    }
    name.chars().find_map(fault).map_or(Ok(()), Err)
}

/// The problem of a character in a name, if it is not allowed.
fn fault(char: char) -> Option<String> {
    // Control characters come first: a tab is white space, too, and the first message is more
    // precise.
    let code = u32::from(char);
    if char.is_control() {
        Some(format!(
            "a name must not contain control characters or line breaks, found U+{code:04X}"
        ))
    } else if char.is_whitespace() {
        Some(format!(
            "a name must not contain white space, found U+{code:04X}; expected `_`, `-` or `.` in its place"
        ))
    } else if is_invisible(char) {
        Some(format!(
            "a name must not contain characters that are invisible or change the direction, found U+{code:04X}"
        ))
    } else if SEPARATORS.contains(&char) {
        Some(format!(
            "the name must not contain `{char}`; expected `_`, `-`, `.` or `:` in its place"
        ))
    } else {
        None
    }
}

fn is_invisible(char: char) -> bool {
    INVISIBLE
        .iter()
        .any(|(first, last)| (*first..=*last).contains(&char))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_names_are_accepted() {
        for name in [
            "t",
            "user_management",
            "Warehouse::StepHandlers::X",
            "golden.flaky",
            "a-b_c.d:e",
            "größe",
            "注文",
            "$ref",
            "{a}",
            "...",
            "a$",
            "a\u{200d}b",
            "\u{646}\u{627}\u{645}\u{647}\u{200c}\u{647}\u{627}",
            "🚚",
            "-a",
            &"n".repeat(MAX_NAME_BYTES),
        ] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn unprintable_names_are_refused() {
        for (name, says) in [
            ("", "an empty string"),
            (".", "a step in a path"),
            ("..", "a step in a path"),
            ("a/b", "`/`"),
            ("a@b", "`@`"),
            ("a,b", "`,`"),
            ("a*", "`*`"),
            ("a=b", "`=`"),
            ("a${b}", "`${`"),
            ("a b", "white space, found U+0020"),
            (" a", "white space"),
            ("a\u{a0}", "white space, found U+00A0"),
            ("a\u{2028}b", "white space, found U+2028"),
            ("a\tb", "control characters or line breaks, found U+0009"),
            ("a\u{9b}b", "control characters"),
            ("a\u{202e}b", "the direction, found U+202E"),
            ("a\u{2066}b", "the direction"),
            ("a\u{61c}", "the direction"),
            ("\u{feff}a", "invisible"),
            (
                &"n".repeat(MAX_NAME_BYTES + 1),
                "256 bytes, but at most 255",
            ),
            (&format!("{}é", "n".repeat(MAX_NAME_BYTES - 1)), "256 bytes"),
        ] {
            let problem = check(name).expect_err(name);
            assert!(problem.contains(says), "{name:?}: {problem}");
        }
        for (first, last) in INVISIBLE {
            for char in [first, last] {
                assert!(check(&format!("a{char}b")).is_err(), "{char:?}");
            }
        }
        for char in [
            '\u{ad}',
            '\u{180e}',
            '\u{2061}',
            '\u{2064}',
            '\u{206a}',
            '\u{fe0f}',
            '\u{3164}',
            '\u{e0001}',
            '\u{e0020}',
            '\u{e007f}',
            '\u{e01ef}',
        ] {
            let problem = check(&format!("a{char}b")).expect_err("invisible");
            assert!(problem.contains("invisible"), "{char:?}: {problem}");
        }
    }
}
