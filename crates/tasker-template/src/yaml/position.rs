//! Positions in the file. One inside a scalar's value has to be translated: the value lacks the
//! file's quotes, escapes and indentation.

pub(crate) use crate::text::Pos;

/// The position in the file of line `line` and column `column` of the value of the scalar at `at`;
/// the scalar's own position if the exact one cannot be determined.
pub(crate) fn inside(yaml: &str, at: Pos, line: u32, column: u32) -> Pos {
    // The parser does not count a byte order mark.
    let text = yaml.strip_prefix('\u{feff}').unwrap_or(yaml);
    let raw = text.lines().nth(at.line as usize - 1).unwrap_or_default();
    let raw: Vec<char> = raw.chars().skip(at.column as usize - 1).collect();
    let offset = match raw.first() {
        // The text of an alias is elsewhere, and an anchor or a tag comes before the text.
        Some('*' | '&' | '!') | None => None,
        // Only a block scalar keeps its lines; `at` is the start of its text, and each of its lines
        // starts at the same column.
        Some(first) if line > 1 => {
            let is_block = !matches!(first, '\'' | '"');
            return if is_block {
                Pos {
                    line: at.line + line - 1,
                    column: at.column + column - 1,
                }
            } else {
                at
            };
        }
        Some('\'') => skip(&raw, column, |rest| {
            if rest.starts_with(&['\'', '\'']) {
                2
            } else {
                1
            }
        }),
        Some('"') => skip(&raw, column, |rest| match rest {
            ['\\', 'x', ..] => 4,
            ['\\', 'u', ..] => 6,
            ['\\', 'U', ..] => 10,
            ['\\', ..] => 2,
            _ => 1,
        }),
        Some(_) => Some(column - 1),
    };
    // A plain scalar may go on in the next line, where the column means another place.
    let fits = |offset: &u32| (*offset as usize) <= raw.len();
    offset.filter(fits).map_or(at, |offset| Pos {
        line: at.line,
        column: at.column + offset,
    })
}

/// The distance of the character at `column` from the opening quote; `width` returns how many
/// characters of the file represent the next character of the value. `None` if the line ends before
/// it.
fn skip(raw: &[char], column: u32, width: impl Fn(&[char]) -> usize) -> Option<u32> {
    let mut at = 1;
    for _ in 1..column {
        at += width(raw.get(at..)?);
    }
    u32::try_from(at).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_inside_a_scalar_is_found() {
        let at = |column| Pos { line: 1, column };
        for (yaml, start, (line, column), expected) in [
            ("a: x == y", 4, (1, 6), (1, 9)),
            ("a: 'x == y'", 4, (1, 6), (1, 10)),
            ("a: 'é''s == y'", 4, (1, 4), (1, 9)),
            ("a: \"x == y\"", 4, (1, 6), (1, 10)),
            ("a: \"\\\"x\\u00e9\\\" == y\"", 4, (1, 5), (1, 16)),
            ("  x ==\n    y", 3, (2, 3), (2, 5)),
            ("a: 'x\n  y'", 4, (1, 3), (1, 4)),
            ("a: 'x\n\n  y'", 4, (2, 1), (1, 4)),
            ("a: 'x\n  y'", 4, (1, 5), (1, 4)),
            ("a: x\n  y", 4, (1, 3), (1, 4)),
            ("a: *b", 4, (1, 3), (1, 4)),
            ("\u{feff}a: x == y", 4, (1, 6), (1, 9)),
        ] {
            let found = inside(yaml, at(start), line, column);
            assert_eq!((found.line, found.column), expected, "{yaml}");
        }
    }
}
