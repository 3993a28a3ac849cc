//! A lexer for Rust that is exact enough to count: comments, strings and lifetimes do not confuse it.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A name or a keyword.
    Word,
    /// A number, a string, a character, or a lifetime.
    Literal,
    /// One character, or `::`.
    Punctuation,
    /// `//`, but not documentation.
    PlainComment,
    /// `///`, `//!`, and block comments.
    Documentation,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token<'a> {
    pub kind: Kind,
    pub text: &'a str,
    /// The first line is 1.
    pub line: usize,
}

impl Token<'_> {
    pub fn is_comment(&self) -> bool {
        matches!(self.kind, Kind::PlainComment | Kind::Documentation)
    }
}

pub fn lex(source: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(next) = source[at..].chars().next() {
        if next.is_whitespace() {
            line += usize::from(next == '\n');
            at += next.len_utf8();
            continue;
        }
        let (kind, len) = first(&source[at..]);
        let text = &source[at..at + len];
        tokens.push(Token { kind, text, line });
        line += text.matches('\n').count();
        at += len;
    }
    tokens
}

/// The kind and the length of the token at the start of a text that is not empty.
fn first(rest: &str) -> (Kind, usize) {
    if rest.starts_with("//") {
        let is_documentation =
            rest.starts_with("//!") || (rest.starts_with("///") && !rest.starts_with("////"));
        let kind = match is_documentation {
            true => Kind::Documentation,
            false => Kind::PlainComment,
        };
        return (kind, rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return (Kind::Documentation, block_comment(rest));
    }
    if let Some(len) = string(rest) {
        return (Kind::Literal, len);
    }
    if rest.starts_with('\'') {
        return (Kind::Literal, quoted_or_lifetime(rest));
    }
    if rest.starts_with(|c: char| c.is_ascii_digit()) {
        return (Kind::Literal, number(rest));
    }
    if rest.starts_with(is_word) {
        return (Kind::Word, word(rest));
    }
    let one = rest.chars().next().map_or(1, char::len_utf8);
    let len = if rest.starts_with("::") { 2 } else { one };
    (Kind::Punctuation, len)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn word(rest: &str) -> usize {
    let raw = if rest.starts_with("r#") { 2 } else { 0 };
    rest[raw..]
        .find(|c| !is_word(c))
        .map_or(rest.len(), |end| raw + end)
}

/// A number with its suffix and fraction; the `..` of a range and a call of a method do not belong
/// to it.
fn number(rest: &str) -> usize {
    let len = word(rest);
    let fraction = rest[len..].strip_prefix('.').unwrap_or_default();
    match fraction.starts_with(|c: char| c.is_ascii_digit()) {
        true => len + 1 + word(fraction),
        false => len,
    }
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                break;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// The length of a string, if the text starts with one: plain, of bytes, or raw.
fn string(rest: &str) -> Option<usize> {
    let prefix = ["br", "cr", "r", "b", "c", ""]
        .into_iter()
        .find(|p| {
            rest.strip_prefix(p)
                .is_some_and(|r| r.starts_with('"') || (p.ends_with('r') && r.starts_with("#")))
        })?
        .len();
    let hashes = rest[prefix..].len() - rest[prefix..].trim_start_matches('#').len();
    let open = prefix + hashes;
    let inside = rest[open..].strip_prefix('"')?;
    let is_raw = rest[..prefix].ends_with('r');
    let end = match is_raw {
        true => inside.find(&format!("\"{}", "#".repeat(hashes)))? + hashes,
        false => closing_quote(inside, '"')?,
    };
    Some(open + 1 + end + 1)
}

/// The place of the first quote that no backslash precedes.
fn closing_quote(inside: &str, quote: char) -> Option<usize> {
    let mut is_escaped = false;
    for (at, c) in inside.char_indices() {
        match c {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            c if c == quote => return Some(at),
            _ => {}
        }
    }
    None
}

/// `'a'`, `'\n'`, or a lifetime.
fn quoted_or_lifetime(rest: &str) -> usize {
    let inside = &rest[1..];
    let mut chars = inside.chars();
    let (first, second) = (chars.next(), chars.next());
    if first == Some('\\') || second == Some('\'') {
        return closing_quote(inside, '\'').map_or(1, |end| end + 2);
    }
    1 + word(inside)
}

#[cfg(test)]
mod tests {
    use super::{Kind, lex};

    fn texts(source: &str) -> Vec<&str> {
        lex(source).iter().map(|t| t.text).collect()
    }

    #[test]
    fn lex_strings_with_quotes_and_comment_marks_gives_one_token_each() {
        let source = r###"let a = "a \" // b"; let b = r#"c " d"#; let c = b'"';"###;
        assert_eq!(
            texts(source),
            [
                "let",
                "a",
                "=",
                r#""a \" // b""#,
                ";",
                "let",
                "b",
                "=",
                r##"r#"c " d"#"##,
                ";",
                "let",
                "c",
                "=",
                "b",
                "'\"'",
                ";"
            ]
        );
    }

    #[test]
    fn lex_lifetimes_ranges_and_floats_keeps_them_apart() {
        assert_eq!(
            texts("&'a x[0..1.5e3] 'x' '\\''"),
            [
                "&", "'a", "x", "[", "0", ".", ".", "1.5e3", "]", "'x'", "'\\''"
            ]
        );
    }

    #[test]
    fn lex_comments_tells_documentation_from_plain_ones_and_counts_lines() {
        let kinds: Vec<_> = lex("/// a\n// b\n/* c\n*/ d")
            .iter()
            .map(|t| (t.kind, t.line))
            .collect();
        assert_eq!(
            kinds,
            [
                (Kind::Documentation, 1),
                (Kind::PlainComment, 2),
                (Kind::Documentation, 3),
                (Kind::Word, 4)
            ]
        );
    }
}
