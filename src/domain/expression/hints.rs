//! What CEL writes where other languages write something else.

/// A hint for a word that is no name here.
pub(super) fn of_word(word: &str) -> Option<String> {
    let right = match word {
        "and" | "AND" | "And" => "&&",
        "or" | "OR" | "Or" => "||",
        "not" | "NOT" | "Not" => "!",
        "True" | "TRUE" => "true",
        "False" | "FALSE" => "false",
        "None" | "nil" | "NULL" | "Null" | "undefined" => "null",
        "len" | "length" | "count" => "size(…)",
        _ => return None,
    };
    Some(hint(right, word))
}

/// A hint for an expression that cannot be read: for the first word or sign in it that other languages have; empty when there is
/// none.
pub(super) fn of_syntax(source: &str) -> String {
    let mut rest = source;
    let mut before = ' ';
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' | '\'' => text_length(rest, first),
            'a'..='z' | 'A'..='Z' | '_' => {
                let word: &str = rest
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next()
                    .unwrap_or(rest);
                if let Some(found) = of_word(word).filter(|_| before != '.') {
                    return found;
                }
                word.len()
            }
            _ => {
                let sign = rest
                    .split(|c: char| !"=&|<>!".contains(c))
                    .next()
                    .unwrap_or("");
                let right = match sign {
                    "=" | "===" => "==",
                    "&" => "&&",
                    "|" => "||",
                    "<>" | "!==" => "!=",
                    _ => "",
                };
                if !right.is_empty() {
                    return hint(right, sign);
                }
                sign.len().max(first.len_utf8())
            }
        };
        before = first;
        rest = rest.get(length..).unwrap_or("");
    }
    String::new()
}

fn hint(right: &str, wrong: &str) -> String {
    format!("; CEL writes `{right}` for `{wrong}`")
}

/// How long a text in quotes is.
fn text_length(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, char) in text.char_indices().skip(1) {
        match char {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if char == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}
