//! The meaning of an unquoted YAML scalar: the core schema of YAML 1.2, with each digit of a number
//! kept.

use serde_json::Number;

use crate::json_text;

/// The meaning of an unquoted scalar.
#[derive(Debug, PartialEq)]
pub(crate) enum Plain {
    Null,
    Bool(bool),
    Number(Number),
    /// A word, or any other text that is not one of the above.
    Text,
    /// A number that JSON or this server cannot hold, with the reason.
    Unusable(String),
}

/// Resolves an unquoted scalar by section 10.3.2 of YAML 1.2.2: `yes`, `on`, `1_000` and `0777` are
/// text, text, text, and the number 777, not the values that YAML 1.1 gave them.
pub(crate) fn resolve(text: &str) -> Plain {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Plain::Null,
        "true" | "True" | "TRUE" => return Plain::Bool(true),
        "false" | "False" | "FALSE" => return Plain::Bool(false),
        _ => {}
    }
    // The core schema allows a sign for decimals and infinity, but not for `0x`, `0o` and `.nan`.
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Plain::Unusable(format!(
            "JSON has no number {text}; expected a finite number, or a string in quotes"
        ));
    }
    if let Some(digits) = text.strip_prefix("0x") {
        return radix(text, digits, 16);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return radix(text, digits, 8);
    }
    decimal(text, unsigned)
}

fn radix(text: &str, digits: &str, radix: u32) -> Plain {
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(radix)) {
        return Plain::Text;
    }
    match u128::from_str_radix(digits, radix) {
        Ok(value) => number(value.to_string()),
        Err(_) => Plain::Unusable(format!(
            "the number {} has more than 128 bits",
            crate::text::shorten(text)
        )),
    }
}

/// `[-+]? ( \. [0-9]+ | [0-9]+ ( \. [0-9]* )? ) ( [eE] [-+]? [0-9]+ )?`, rewritten in JSON's
/// narrower grammar.
fn decimal(text: &str, unsigned: &str) -> Plain {
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let mantissa_is_number = digits(whole) && fraction.is_none_or(digits);
    let has_digits = !whole.is_empty() || fraction.is_some_and(|fraction| !fraction.is_empty());
    let exponent_digits =
        exponent.map(|exponent| exponent.strip_prefix(['-', '+']).unwrap_or(exponent));
    let exponent_is_number =
        exponent_digits.is_none_or(|exponent| !exponent.is_empty() && digits(exponent));
    if !mantissa_is_number || !has_digits || !exponent_is_number {
        return Plain::Text;
    }

    // JSON allows no plus, no leading zeros, and no point without digits on both sides.
    let mut json = String::from(if text.starts_with('-') { "-" } else { "" });
    let significant = whole.trim_start_matches('0');
    json.push_str(if significant.is_empty() {
        "0"
    } else {
        significant
    });
    if let Some(fraction) = fraction {
        json.push('.');
        json.push_str(if fraction.is_empty() { "0" } else { fraction });
    }
    if let Some(exponent) = exponent {
        json.push('e');
        json.push_str(exponent);
    }
    number(json)
}

fn number(json: String) -> Plain {
    // Before the parser, which would accept a short text with a huge exponent.
    if !json_text::number_is_bounded(&json) {
        return Plain::Unusable(format!(
            "the number has more than {} digits",
            json_text::MAX_NUMBER_DIGITS
        ));
    }
    match json.parse() {
        Ok(number) => Plain::Number(number),
        Err(_) => Plain::Unusable(format!("JSON cannot hold the number {json}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_all_digits() {
        for (yaml, json) in [
            ("0", "0"),
            ("7", "7"),
            ("-7", "-7"),
            ("+7", "7"),
            ("007", "7"),
            ("-0", "-0"),
            ("00", "0"),
            ("9007199254740993", "9007199254740993"),
            (
                "123456789012345678901234567890",
                "123456789012345678901234567890",
            ),
            ("1.10", "1.10"),
            (".5", "0.5"),
            ("-.5", "-0.5"),
            ("5.", "5.0"),
            ("1e400", "1e+400"),
            ("1E+4", "1e+4"),
            ("01.50e-3", "1.50e-3"),
            ("0x1F", "31"),
            ("0o17", "15"),
            ("0xffffffffffffffff", "18446744073709551615"),
        ] {
            let Plain::Number(number) = resolve(yaml) else {
                panic!("{yaml} is no number")
            };
            assert_eq!(number.to_string(), json, "{yaml}");
        }
    }

    #[test]
    fn scalars_follow_the_core_schema_of_yaml_1_2() {
        for text in [
            "yes",
            "no",
            "on",
            "off",
            "Yes",
            "y",
            "1_000",
            "1:30",
            "0x",
            "0xg",
            "0o8",
            "-0x1",
            "1.2.3",
            ".",
            "-",
            "+",
            "e5",
            ".e5",
            "1e",
            "1e+",
            "tRUE",
            "nULL",
            "2026-01-01",
            "inf",
            "nan",
            "-.nan",
            "1 2",
            "٣",
        ] {
            assert_eq!(resolve(text), Plain::Text, "{text}");
        }
        for text in ["", "~", "null", "Null", "NULL"] {
            assert_eq!(resolve(text), Plain::Null, "{text}");
        }
        assert_eq!(resolve("True"), Plain::Bool(true));
        assert_eq!(resolve("FALSE"), Plain::Bool(false));
    }

    #[test]
    fn numbers_that_json_cannot_represent_are_refused() {
        for text in [
            ".inf",
            "-.Inf",
            "+.INF",
            ".nan",
            ".NaN",
            "1e4096",
            "0x100000000000000000000000000000000",
        ] {
            assert!(matches!(resolve(text), Plain::Unusable(_)), "{text}");
        }
    }
}
