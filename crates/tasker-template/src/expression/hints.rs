//! The CEL spelling of operators and words from other languages.

/// A hint for an unknown word that another language uses.
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

/// A hint for an expression with a syntax error: for its first word or sign that belongs to another
/// language; empty if there is none.
pub(super) fn of_syntax(source: &str) -> String {
    let mut rest = source;
    let mut before = ' ';
    while let Some(first) = rest.chars().next() {
        let length = match first {
            // Words inside a quoted text are data.
            '"' | '\'' => text_length(rest, first),
            'a'..='z' | 'A'..='Z' | '_' => {
                let word: &str = rest
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next()
                    .unwrap_or(rest);
                // After a dot, the word is the name of a field.
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

/// Length in bytes of the quoted text at the start of `text`.
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
