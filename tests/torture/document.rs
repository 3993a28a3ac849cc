//! JSON that a careless reader would change: numbers beyond 64 bits and in odd spellings;
//! characters, escapes and spaces; keys in any order; nulls everywhere. The escape of NUL is left
//! out: Postgres cannot store it, and the server refuses it.

use crate::seed::Rng;

const LEAVES: &[&str] = &[
    "null",
    "true",
    "0",
    "-0",
    "-0.0",
    "1.0",
    "1.10",
    "1E400",
    "1e-7",
    "9007199254740993",
    "18446744073709551616",
    "-9223372036854775809",
    "123456789012345678901234567890.123456789012345678901234567890",
    "\"\"",
    "\"é\"",
    "\"\\u00e9\"",
    "\"e\\u0301\"",
    "\"👩‍🚀\"",
    "\"\\ud83d\\ude80\"",
    "\"a\\/b\"",
    "\"\\t\\\"\\\\\"",
    "\"\u{7f}\u{2028}\"",
    "\"null\"",
    "[]",
    "{}",
    "[null]",
    "{\"\":null}",
];
const KEYS: &[&str] = &[
    "z",
    "a",
    "é",
    "\\u00e9é",
    "10",
    "9",
    "",
    " ",
    "null",
    "__proto__",
    "a.b",
    "🗝",
];

/// An object that starts with the key `n`.
pub fn object(rng: &mut Rng, n: u64) -> String {
    let mut json = format!("{{\"n\":{n}");
    members(rng, &mut json, false, 3);
    json.push('}');
    json
}

/// A document of any type.
pub fn value(rng: &mut Rng, depth: usize) -> String {
    let mut json = String::new();
    write(rng, &mut json, depth);
    json
}

fn write(rng: &mut Rng, json: &mut String, depth: usize) {
    match rng.below(if depth == 0 { 6 } else { 10 }) {
        0..=5 => json.push_str(LEAVES[rng.below(LEAVES.len())]),
        6 => {
            json.push('[');
            for i in 0..rng.below(5) {
                json.push_str(if i == 0 { " " } else { ",\n" });
                write(rng, json, depth - 1);
            }
            json.push(']');
        }
        _ => {
            json.push('{');
            members(rng, json, true, depth - 1);
            json.push('}');
        }
    }
}

fn members(rng: &mut Rng, json: &mut String, mut first: bool, depth: usize) {
    let mut keys: Vec<&str> = KEYS.to_vec();
    rng.shuffle(&mut keys);
    keys.truncate(rng.below(4));
    for key in keys {
        if !std::mem::take(&mut first) {
            json.push(',');
        }
        json.push('"');
        json.push_str(key);
        json.push_str(if rng.chance(3_000) { "\" : " } else { "\":" });
        write(rng, json, depth);
    }
}

#[test]
fn random_document_is_json() {
    for i in 0..2_000 {
        let mut rng = Rng::of(i, "document");
        let (value, object) = (value(&mut rng, 4), object(&mut rng, i));
        serde_json::from_str::<serde_json::Value>(&value)
            .unwrap_or_else(|e| panic!("{e}: {value}"));
        let object: serde_json::Value =
            serde_json::from_str(&object).unwrap_or_else(|e| panic!("{e}: {object}"));
        assert_eq!(object["n"], serde_json::json!(i));
    }
}
