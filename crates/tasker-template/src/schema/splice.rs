//! Inserts the additions to a value into the text of the value, so that the rest stays byte for
//! byte.
//!
//! Parsing and serialising the text would keep its meaning but not its spelling: `1e400` would
//! become `1e+400`, and `"\u00e9"` the character itself.

use serde_json::{Map, Value};

/// The text of `completed`, which is the value of `text` with keys added at the end of some of its
/// objects.
///
/// `text` is valid JSON without repeated keys, so the old keys of an object come first, in the same
/// order.
pub(super) fn splice(text: &str, completed: &Value) -> String {
    let mut splicer = Splicer {
        text,
        at: 0,
        copied: 0,
        output: String::with_capacity(text.len() + 64),
    };
    splicer.value(completed);
    splicer.output.push_str(&text[splicer.copied..]);
    splicer.output
}

struct Splicer<'t> {
    text: &'t str,
    at: usize,
    /// The number of bytes of `text` that `output` contains already.
    copied: usize,
    output: String,
}

impl Splicer<'_> {
    fn value(&mut self, completed: &Value) {
        match (self.next_token(), completed) {
            (b'{', Value::Object(object)) => self.object(object),
            (b'[', Value::Array(items)) => self.array(items),
            (b'"', _) => self.string(),
            _ => {
                // A number or a word ends at the next delimiter.
                self.at += self
                    .rest()
                    .find([',', ']', '}', ' ', '\n', '\r', '\t'])
                    .unwrap_or(self.rest().len());
            }
        }
    }

    fn object(&mut self, completed: &Map<String, Value>) {
        self.at += 1;
        let mut end = self.at; // The end of the last entry: additions go here.
        let mut entries = completed.iter();
        let mut known = 0;
        while self.next_token() != b'}' {
            self.at += usize::from(self.next_token() == b',');
            self.next_token();
            self.string();
            self.at += usize::from(self.next_token() == b':');
            // Fewer keys than in the text: the value is not of this text, so nothing is inserted.
            let Some((_, value)) = entries.next() else {
                return;
            };
            self.value(value);
            known += 1;
            end = self.at;
        }
        self.at += 1;
        for (key, value) in entries {
            // Only the first addition copies text; for the next ones `copied` is at `end` already.
            self.output.push_str(&self.text[self.copied..end]);
            self.copied = end;
            let comma = if known > 0 { "," } else { "" };
            self.output
                .push_str(&format!("{comma}{}:{value}", Value::from(key.as_str())));
            known += 1;
        }
    }

    fn array(&mut self, completed: &[Value]) {
        self.at += 1;
        for value in completed {
            self.value(value);
            self.at += usize::from(self.next_token() == b',');
        }
        self.at += usize::from(self.next_token() == b']');
    }

    fn string(&mut self) {
        let bytes = self.text.as_bytes();
        self.at += 1;
        while let Some(byte) = bytes.get(self.at).filter(|byte| **byte != b'"') {
            self.at += if *byte == b'\\' { 2 } else { 1 };
        }
        self.at += 1;
    }

    /// Skips white space and returns the next byte, or 0 at the end.
    fn next_token(&mut self) -> u8 {
        self.at += self.rest().len()
            - self
                .rest()
                .trim_start_matches([' ', '\n', '\r', '\t'])
                .len();
        self.rest().bytes().next().unwrap_or(0)
    }

    fn rest(&self) -> &str {
        &self.text[self.at.min(self.text.len())..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn splice_keeps_the_existing_text() {
        let text = "{ \"n\" : 1e400 ,\n \"s\": \"\\u00e9\\\"}\", \"o\": { }, \"l\": [ {\"x\":1.10}, [ ], \"]\", true ] \n}\n";
        let mut value: Value = serde_json::from_str(text).expect("JSON");
        assert_eq!(splice(text, &value), text);
        value["o"]["a"] = json!("b");
        value["o"]["c"] = json!([1]);
        value["l"][0]["y"] = json!(null);
        value["\"é"] = json!(2);
        let expected = "{ \"n\" : 1e400 ,\n \"s\": \"\\u00e9\\\"}\", \"o\": {\"a\":\"b\",\"c\":[1] }, \
                        \"l\": [ {\"x\":1.10,\"y\":null}, [ ], \"]\", true ],\"\\\"é\":2 \n}\n";
        assert_eq!(splice(text, &value), expected);
        let read: Value = serde_json::from_str(expected).expect("JSON");
        assert_eq!(read, value);
    }
}
