//! A message of the protocol as JSON. Documents inside it are copied as they are, never parsed, so digits, the order of
//! keys and white space arrive as they were sent. Every key is always there: what is not set is `null`.

use std::fmt::Write as _;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage as _, Value};
use prost_types::{Duration, Timestamp};

use super::protocol::{is_document, key, value_kind, words};

/// A message that `descriptor` describes, to be looked into by name.
pub fn dynamic(descriptor: &MessageDescriptor, of: &impl prost::Message) -> Result<DynamicMessage, prost::DecodeError> {
    DynamicMessage::decode(descriptor.clone(), of.encode_to_vec().as_slice())
}

/// The JSON text of a message.
pub fn message(message: &DynamicMessage) -> String {
    let mut out = String::new();
    object(&mut out, message);
    out
}

fn object(out: &mut String, message: &DynamicMessage) {
    separated(out, ('{', '}'), message.descriptor().fields(), |out, field| {
        text(out, key(&field));
        out.push(':');
        let is_set = !field.supports_presence() || message.has_field(&field);
        match is_set {
            true => member(out, &field, &message.get_field(&field)),
            false => out.push_str("null"),
        }
    });
}

fn member(out: &mut String, field: &FieldDescriptor, value: &Value) {
    let (kind, document) = (value_kind(field), is_document(field));
    match value {
        Value::List(items) => separated(out, ('[', ']'), items, |out, item| one(out, &kind, document, item)),
        Value::Map(entries) => {
            let mut entries: Vec<(&MapKey, &Value)> = entries.iter().collect();
            entries.sort_by_key(|(key, _)| map_key(key));
            separated(out, ('{', '}'), entries, |out, (key, item)| {
                text(out, &map_key(key));
                out.push(':');
                one(out, &kind, document, item);
            });
        }
        Value::String(nothing) if nothing.is_empty() => out.push_str("null"),
        value => one(out, &kind, document, value),
    }
}

fn one(out: &mut String, kind: &Kind, document: bool, value: &Value) {
    match value {
        Value::String(json) if document => out.push_str(json),
        Value::String(string) => text(out, string),
        Value::Bytes(bytes) => text(out, &STANDARD.encode(bytes)),
        Value::EnumNumber(number) => match kind {
            Kind::Enum(of) => match words(of).find(|(_, n)| n == number) {
                Some((word, _)) => text(out, &word),
                None => out.push_str("null"),
            },
            _ => out.push_str("null"),
        },
        Value::Message(message) => well_known(out, message),
        Value::Bool(b) => shown(out, b),
        Value::I32(n) => shown(out, n),
        Value::I64(n) => shown(out, n),
        Value::U32(n) => shown(out, n),
        Value::U64(n) => shown(out, n),
        Value::F32(n) => float(out, f64::from(*n)),
        Value::F64(n) => float(out, *n),
        // Neither is an element of a list or a map.
        Value::List(_) | Value::Map(_) => out.push_str("null"),
    }
}

/// A time is RFC 3339 and a duration such as `"1.5s"`.
fn well_known(out: &mut String, message: &DynamicMessage) {
    match message.descriptor().full_name() {
        "google.protobuf.Timestamp" => {
            text(out, &message.transcode_to::<Timestamp>().map(|t| t.to_string()).unwrap_or_default());
        }
        "google.protobuf.Duration" => {
            text(out, &message.transcode_to::<Duration>().map(|d| d.to_string()).unwrap_or_default());
        }
        _ => object(out, message),
    }
}

fn separated<T>(
    out: &mut String,
    (open, close): (char, char),
    items: impl IntoIterator<Item = T>,
    mut write: impl FnMut(&mut String, T),
) {
    out.push(open);
    for (i, item) in items.into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        write(out, item);
    }
    out.push(close);
}

fn text(out: &mut String, text: &str) {
    // A string is always JSON.
    out.push_str(&serde_json::to_string(text).unwrap_or_default());
}

fn shown(out: &mut String, value: impl std::fmt::Display) {
    let _ = write!(out, "{value}");
}

/// JSON has no word for what is not a number.
fn float(out: &mut String, n: f64) {
    out.push_str(&serde_json::to_string(&n).unwrap_or_else(|_| "null".to_owned()));
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

    use super::super::protocol::rpc;
    use crate::proto::*;

    fn step(step: Step) -> String {
        let output = rpc("TaskService/GetTask").output();
        super::message(&super::dynamic(&output, &GetTaskResponse { steps: vec![step], ..Default::default() }).unwrap())
    }

    #[test]
    fn documents_are_copied_byte_by_byte() {
        let document = r#"{"z": 9007199254740993, "a":[1.10,1e400,-0.0], "n":null}"#;
        let text = step(Step { result_json: document.into(), ..Default::default() });
        assert!(text.contains(&format!(r#""result":{document},"#)), "{text}");
    }

    #[test]
    fn every_key_is_there_and_says_what_it_says_in_short() {
        let failed = StepError { message: "busy \"\n".into(), error_code: "X".into(), context_json: String::new() };
        let text = step(Step {
            name: "bill".into(),
            state: StepState::WaitingForRetry.into(),
            next_attempt_at: Some(prost_types::Timestamp { seconds: 1_767_225_600, nanos: 7_000_000 }),
            attempts: vec![Attempt {
                outcome: AttemptOutcome::RetryableError.into(),
                error: Some(failed),
                retry_after: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
                ..Default::default()
            }],
            ..Default::default()
        });
        let value: Value = serde_json::from_str(&text).unwrap();
        let step = &value["steps"][0];
        assert_eq!(
            (&value["task"], &step["description"], &step["ended_at"]),
            (&Value::Null, &Value::Null, &Value::Null)
        );
        assert_eq!((&step["state"], &step["attempt"]), (&json!("waiting_for_retry"), &json!(0)));
        assert_eq!(step["next_attempt_at"], "2026-01-01T00:00:00.007Z");
        let attempt = &step["attempts"][0];
        assert_eq!(attempt["error"], json!({"message": "busy \"\n", "error_code": "X", "context": null}));
        assert_eq!((&attempt["outcome"], &attempt["retry_after"]), (&json!("retryable_error"), &json!("1.500s")));
        assert!(!text.contains("_json"), "{text}");
    }

    #[test]
    fn maps_are_objects_in_order() {
        let labels = [("zone", "b"), ("arch", "arm")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let worker = Worker { labels: labels.into(), ..Default::default() };
        let output = rpc("WorkerService/ListWorkers").output();
        let whole = super::dynamic(&output, &ListWorkersResponse { workers: vec![worker] }).unwrap();
        assert!(super::message(&whole).contains(r#""labels":{"arch":"arm","zone":"b"}"#));
    }
}
