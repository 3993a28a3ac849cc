//! The lexemes of a CEL source, as far as a brace or a word in it may be data: strings, bytes,
//! comments and quoted identifiers.
//!
//! The rules are those of the CEL grammar: single, double and tripled quotes, `r` for a raw string,
//! `b` for bytes, `//` for a comment to the end of the line, and backticks around an identifier.

/// The first lexeme of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lexeme<'s> {
    /// A name, a keyword or a number.
    Word(&'s str),
    /// A string, bytes, a comment or a quoted identifier, of this many bytes.
    Quoted(usize),
    /// A quoted part that does not end.
    Unclosed,
    /// Any other character.
    Sign(char),
}

impl<'s> Lexeme<'s> {
    /// `None` at the end of the source.
    pub fn first(source: &'s str) -> Option<Self> {
        let first = source.chars().next()?;
        if first == '"' || first == '\'' {
            return Some(string(source, 0, false));
        }
        if first == '`' {
            let end = source[1..].find('`');
            return Some(end.map_or(Lexeme::Unclosed, |end| Lexeme::Quoted(end + 2)));
        }
        if source.starts_with("//") {
            return Some(Lexeme::Quoted(source.find('\n').unwrap_or(source.len())));
        }
        if !is_word(first) {
            return Some(Lexeme::Sign(first));
        }
        // The whole word, since the `r` of `or"x"` begins no raw string.
        let length = source.find(|char| !is_word(char)).unwrap_or(source.len());
        let word = &source[..length];
        let is_raw = match word {
            "b" | "B" => false,
            "r" | "R" | "br" | "bR" | "Br" | "BR" => true,
            _ => return Some(Lexeme::Word(word)),
        };
        if source[length..].starts_with(['"', '\'']) {
            Some(string(source, length, is_raw))
        } else {
            Some(Lexeme::Word(word))
        }
    }

    /// The number of bytes; `None` for a part that does not end.
    pub fn length(self) -> Option<usize> {
        match self {
            Lexeme::Word(word) => Some(word.len()),
            Lexeme::Quoted(length) => Some(length),
            Lexeme::Unclosed => None,
            Lexeme::Sign(char) => Some(char.len_utf8()),
        }
    }
}

fn is_word(char: char) -> bool {
    char.is_ascii_alphanumeric() || char == '_'
}

/// The string whose opening quotes are at byte `start`.
fn string(source: &str, start: usize, is_raw: bool) -> Lexeme<'_> {
    let opening = &source[start..];
    let quotes = ["\"\"\"", "'''", "\"", "'"]
        .into_iter()
        .find(|quotes| opening.starts_with(quotes))
        .unwrap_or_default();
    let content = start + quotes.len();
    let mut escaped = false;
    for (at, char) in source[content..].char_indices() {
        match char {
            _ if escaped => escaped = false,
            // In a raw string, a backslash is an ordinary character.
            '\\' if !is_raw => escaped = true,
            _ if source[content + at..].starts_with(quotes) => {
                return Lexeme::Quoted(content + at + quotes.len());
            }
            _ => {}
        }
    }
    Lexeme::Unclosed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_parts_end_where_cel_ends_them() {
        for (quoted, rest) in [
            (r#""a\"b""#, "}"),
            (r"'a\'b'", "}"),
            ("''", "}"),
            ("'''a''b'''", "'}"),
            (r#""""a\"""b""""#, "}"),
            (r"r'a\'", "'}"),
            (r#"R"a\""#, "}"),
            (r"r'''a\'''", "}"),
            (r"b'a\'b'", "}"),
            (r"bR'a\'", "}"),
            ("// it's }", "\n}"),
            ("`a'b`", "}"),
        ] {
            let source = format!("{quoted}{rest}");
            assert_eq!(
                Lexeme::first(&source),
                Some(Lexeme::Quoted(quoted.len())),
                "{source}"
            );
        }
        for source in ["'a", "'''a'", r"'a\'", "r\"a", "`a"] {
            assert_eq!(Lexeme::first(source), Some(Lexeme::Unclosed), "{source}");
        }
        assert_eq!(Lexeme::first("or'x'"), Some(Lexeme::Word("or")));
        assert_eq!(Lexeme::first("r + 1"), Some(Lexeme::Word("r")));
        assert_eq!(Lexeme::first("/ 2"), Some(Lexeme::Sign('/')));
        assert_eq!(Lexeme::first(""), None);
    }
}
