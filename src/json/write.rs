//! Writes a message of the protocol as JSON.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage as _, Value};
use prost_types::{Duration, Timestamp};
use serde::Deserialize as _;
use tasker_template::json_text::check_document;

use super::protocol::{self, is_document, key, value_kind, words};

/// A message whose fields can be read by name.
pub fn dynamic<M: prost::Name>(of: &M) -> DynamicMessage {
    DynamicMessage::decode(
        protocol::message(&M::full_name()),
        of.encode_to_vec().as_slice(),
    )
    .expect("what was just encoded is whole")
}

/// The JSON text of a message. Nested documents are copied unparsed, so that digits, the order of
/// keys and white space arrive as they were sent.
pub fn text(message: &DynamicMessage) -> String {
    Writer {
        out: String::new(),
        copy: |out, document| out.push_str(document),
    }
    .whole(message)
}

/// A message as a tree that keeps every digit and the order of keys. A nested text that is not JSON
/// is shown as a string, since a lost text would hide the mistake of its sender.
pub fn value(of: &impl prost::Name) -> serde_json::Value {
    let copy = |out: &mut String, document: &str| match check_document(document, document.len()) {
        Ok(()) => out.push_str(document),
        Err(_) => quoted(out, document),
    };
    let json = Writer {
        out: String::new(),
        copy,
    }
    .whole(&dynamic(of));
    let mut reader = serde_json::Deserializer::from_str(&json);
    reader.disable_recursion_limit(); // The depth of each document is checked.
    serde_json::Value::deserialize(&mut reader).expect("what was just written is JSON")
}

/// Each of them as a tree.
pub fn values<M: prost::Name>(of: &[M]) -> serde_json::Value {
    of.iter().map(value).collect()
}

struct Writer {
    out: String,
    /// Appends a nested document.
    copy: fn(&mut String, &str),
}

impl Writer {
    fn whole(mut self, message: &DynamicMessage) -> String {
        self.object(message);
        self.out
    }

    fn object(&mut self, message: &DynamicMessage) {
        self.separated(('{', '}'), message.descriptor().fields(), |to, field| {
            to.text(key(&field));
            to.out.push(':');
            // A field without presence cannot be unset: its default value is a value.
            let is_set = !field.supports_presence() || message.has_field(&field);
            match is_set {
                true => to.member(&field, &message.get_field(&field)),
                false => to.null(),
            }
        });
    }

    fn member(&mut self, field: &FieldDescriptor, value: &Value) {
        let (kind, document) = (value_kind(field), is_document(field));
        match value {
            Value::List(items) => {
                self.separated(('[', ']'), items, |to, item| to.one(&kind, document, item));
            }
            Value::Map(entries) => {
                let mut entries: Vec<(&MapKey, &Value)> = entries.iter().collect();
                // A map of protobuf has no order: sorted, equal messages have equal texts.
                entries.sort_by_key(|(key, _)| map_key(key));
                self.separated(('{', '}'), entries, |to, (key, item)| {
                    to.text(&map_key(key));
                    to.out.push(':');
                    to.one(&kind, document, item);
                });
            }
            // Most strings of the protocol have no presence: an empty one means that it is not set.
            Value::String(nothing) if nothing.is_empty() => self.null(),
            value => self.one(&kind, document, value),
        }
    }

    fn one(&mut self, kind: &Kind, document: bool, value: &Value) {
        match value {
            Value::String(json) if document => (self.copy)(&mut self.out, json),
            Value::String(string) => self.text(string),
            Value::Bytes(bytes) => self.text(&STANDARD.encode(bytes)),
            Value::EnumNumber(number) => match word(kind, *number) {
                Some(word) => self.text(&word),
                None => self.null(),
            },
            Value::Message(message) => self.well_known(message),
            Value::Bool(b) => self.shown(b),
            Value::I32(n) => self.shown(n),
            Value::I64(n) => self.shown(n),
            Value::U32(n) => self.shown(n),
            Value::U64(n) => self.shown(n),
            Value::F32(n) => self.float(f64::from(*n)),
            Value::F64(n) => self.float(*n),
            // Neither is an element of a list or a map.
            Value::List(_) | Value::Map(_) => self.null(),
        }
    }

    /// A time is RFC 3339 and a duration such as `"1.5s"`.
    fn well_known(&mut self, message: &DynamicMessage) {
        // Both types have a form of their own in JSON. The descriptor names the type, so the
        // conversion does not fail.
        match message.descriptor().full_name() {
            "google.protobuf.Timestamp" => {
                self.text(
                    &message
                        .transcode_to::<Timestamp>()
                        .map(|t| t.to_string())
                        .unwrap_or_default(),
                );
            }
            "google.protobuf.Duration" => {
                self.text(
                    &message
                        .transcode_to::<Duration>()
                        .map(|d| d.to_string())
                        .unwrap_or_default(),
                );
            }
            _ => self.object(message),
        }
    }

    fn separated<T>(
        &mut self,
        (open, close): (char, char),
        items: impl IntoIterator<Item = T>,
        mut write: impl FnMut(&mut Self, T),
    ) {
        self.out.push(open);
        for (i, item) in items.into_iter().enumerate() {
            if i > 0 {
                self.out.push(',');
            }
            write(self, item);
        }
        self.out.push(close);
    }

    fn text(&mut self, text: &str) {
        quoted(&mut self.out, text);
    }

    fn shown(&mut self, value: impl std::fmt::Display) {
        // A write to a `String` does not fail.
        let _ = write!(self.out, "{value}");
    }

    /// JSON has no infinity and no NaN; these become `null`.
    fn float(&mut self, n: f64) {
        self.out
            .push_str(&serde_json::to_string(&n).unwrap_or_else(|_| "null".to_owned()));
    }

    fn null(&mut self) {
        self.out.push_str("null");
    }
}

fn quoted(out: &mut String, text: &str) {
    // A string is always JSON.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}

/// The word of an enum's value; `None` for the unspecified one. A newer server may send values that
/// this program does not know.
fn word(kind: &Kind, number: i32) -> Option<String> {
    let Kind::Enum(of) = kind else { return None };
    let known = words(of).find(|(_, n)| *n == number).map(|(word, _)| word);
    known.or_else(|| (number != 0).then(|| format!("unknown_{number}")))
}

fn map_key(key: &MapKey) -> String {
    match key {
        MapKey::String(s) => s.clone(),
        MapKey::Bool(b) => b.to_string(),
        MapKey::I32(n) => n.to_string(),
        MapKey::I64(n) => n.to_string(),
        MapKey::U32(n) => n.to_string(),
        MapKey::U64(n) => n.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::proto::*;

    fn text(of: &impl prost::Name) -> String {
        super::text(&super::dynamic(of))
    }

    #[test]
    fn documents_are_copied_unchanged() {
        let document = r#"{"z": 9007199254740993, "a":[1.10,1e400,-0.0], "n":null}"#;
        let text = text(&Step {
            result_json: document.into(),
            ..Default::default()
        });
        assert!(text.contains(&format!(r#""result":{document},"#)), "{text}");
    }

    #[test]
    fn every_key_is_present_with_short_enum_names() {
        let failed = StepError {
            message: "busy \"\n".into(),
            error_code: "X".into(),
            context_json: String::new(),
        };
        let text = text(&Step {
            name: "bill".into(),
            state: StepState::WaitingForRetry.into(),
            next_attempt_at: Some(prost_types::Timestamp {
                seconds: 1_767_225_600,
                nanos: 7_000_000,
            }),
            attempts: vec![Attempt {
                outcome: AttemptOutcome::RetryableError.into(),
                error: Some(failed),
                retry_after: Some(prost_types::Duration {
                    seconds: 1,
                    nanos: 500_000_000,
                }),
                ..Default::default()
            }],
            ..Default::default()
        });
        let step: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&step["error"], &step["description"], &step["ended_at"]),
            (&Value::Null, &Value::Null, &Value::Null)
        );
        assert_eq!(
            (&step["state"], &step["attempt"]),
            (&json!("waiting_for_retry"), &json!(0))
        );
        assert_eq!(step["next_attempt_at"], "2026-01-01T00:00:00.007Z");
        let attempt = &step["attempts"][0];
        assert_eq!(
            attempt["error"],
            json!({"message": "busy \"\n", "error_code": "X", "context": null})
        );
        assert_eq!(
            (&attempt["outcome"], &attempt["retry_after"]),
            (&json!("retryable_error"), &json!("1.500s"))
        );
        assert!(!text.contains("_json"), "{text}");
    }

    #[test]
    fn maps_are_written_as_sorted_objects() {
        let labels = [("zone", "b"), ("arch", "arm")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let worker = Worker {
            labels: labels.into(),
            ..Default::default()
        };
        assert!(text(&worker).contains(r#""labels":{"arch":"arm","zone":"b"}"#));
    }

    #[test]
    fn unknown_enum_value_is_written_as_a_number() {
        let state = |state| {
            super::value(&Task {
                state,
                ..Default::default()
            })["state"]
                .clone()
        };
        assert_eq!(
            [0, 2, 99].map(state),
            [Value::Null, json!("in_progress"), json!("unknown_99")]
        );
        let event = Event {
            r#type: EventType::CircuitHalfOpened.into(),
            ..Default::default()
        };
        assert_eq!(super::value(&event)["type"], "circuit.half_opened");
    }

    #[test]
    fn tree_keeps_digits_and_key_order() {
        let task = |context: &str| {
            super::value(&Task {
                context_json: context.into(),
                ..Default::default()
            })
        };
        let context = task("{\"z\": 9007199254740993, \"a\": 1.10,\n \"n\": null, \"s\": \"🚀\"}")
            ["context"]
            .to_string();
        assert_eq!(
            context,
            r#"{"z":9007199254740993,"a":1.10,"n":null,"s":"🚀"}"#
        );
        let deepest = "[".repeat(128) + &"]".repeat(128);
        assert_eq!(task(&deepest)["context"].to_string(), deepest);
        assert_eq!(
            task(&format!("[{deepest}]"))["context"],
            format!("[{deepest}]"),
            "it is not read"
        );
    }

    #[test]
    fn invalid_document_is_written_as_text() {
        let steps = ["{broken", "", "false"].map(|json| Step {
            result_json: json.into(),
            ..Default::default()
        });
        let results: Vec<Value> = steps
            .iter()
            .map(|step| super::value(step)["result"].clone())
            .collect();
        assert_eq!(results, [json!("{broken"), Value::Null, json!(false)]);
        assert_eq!(super::values(&steps)[0]["result"], "{broken");
    }
}
