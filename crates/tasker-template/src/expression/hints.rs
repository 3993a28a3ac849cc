//! The CEL spelling of operators and words from other languages.

use super::lexeme::Lexeme;

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
    while let Some(lexeme) = Lexeme::first(rest) {
        let mut length = lexeme.length().unwrap_or(rest.len());
        match lexeme {
            // After a dot, the word is the name of a field.
            Lexeme::Word(word) if before != '.' => {
                if let Some(found) = of_word(word) {
                    return found;
                }
            }
            Lexeme::Sign(_) => {
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
                length = length.max(sign.len());
            }
            // Words inside a quoted part are data.
            Lexeme::Word(_) | Lexeme::Quoted(_) | Lexeme::Unclosed => {}
        }
        before = rest.chars().next().unwrap_or(' ');
        rest = &rest[length..];
    }
    String::new()
}

fn hint(right: &str, wrong: &str) -> String {
    format!("; CEL writes `{right}` for `{wrong}`")
}
