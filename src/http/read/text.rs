//! Fields from texts, such as those of a query or a path.

use std::str::FromStr;

use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage as _, Value,
};
use prost_types::{Duration, Timestamp};
use serde::de::DeserializeOwned;

use super::violation::{MAX_VIOLATIONS, named, noted, unknown, wrong};
use crate::{
    domain::time::is_rfc3339,
    engine::Violated,
    json::protocol::{is_document, words},
};

/// Fills `message` from names and texts, such as those of a query. `taken` are the fields that come
/// from elsewhere.
pub fn texts(
    message: &mut DynamicMessage,
    pairs: &[(String, String)],
    taken: &[&str],
) -> Result<(), Vec<Violated>> {
    let mut violated = Vec::new();
    for (name, text) in pairs {
        if violated.len() >= MAX_VIOLATIONS {
            break;
        }
        let field = named(&message.descriptor(), name)
            .filter(|f| !taken.contains(&f.name()) && fits_a_query(f));
        let Some(field) = field else {
            violated.push(unknown(name, &message.descriptor(), taken));
            continue;
        };
        let Some(value) = noted(from_text(&field.kind(), text), name, &mut violated) else {
            continue;
        };
        match message.get_field_mut(&field) {
            // A repeated name is how a query writes a list.
            Value::List(items) => items.push(value),
            _ if pairs.iter().filter(|(other, _)| other == name).count() > 1 => {
                violated.push(wrong(name, "it appears twice"));
                // One message for the name; it would come again for each further pair.
                break;
            }
            single => *single = value,
        }
    }
    if violated.is_empty() {
        Ok(())
    } else {
        Err(violated)
    }
}

/// Whether a field can be written as text.
pub fn fits_a_query(field: &FieldDescriptor) -> bool {
    let is_plain = match field.kind() {
        Kind::Message(of) => of.full_name().starts_with("google.protobuf."),
        _ => true,
    };
    is_plain && !field.is_map() && !is_document(field)
}

pub fn from_text(kind: &Kind, text: &str) -> Result<Value, String> {
    fn number<T: DeserializeOwned>(text: &str, what: &str) -> Result<T, String> {
        // By the parser of JSON, so that a query takes the same numbers as a body.
        serde_json::from_str(text).map_err(|_| format!("`{text:.80}` is not {what}"))
    }
    match kind {
        Kind::String => Ok(Value::String(text.to_owned())),
        Kind::Bool => number(text, "true or false").map(Value::Bool),
        Kind::Int32 => number(text, "an integer of 32 bits").map(Value::I32),
        Kind::Int64 => number(text, "an integer of 64 bits").map(Value::I64),
        Kind::Uint32 => number(text, "an unsigned integer of 32 bits").map(Value::U32),
        Kind::Uint64 => number(text, "an unsigned integer of 64 bits").map(Value::U64),
        Kind::Double => number(text, "a number").map(Value::F64),
        Kind::Enum(of) => {
            let expected = || {
                words(of)
                    .map(|(word, _)| word)
                    .collect::<Vec<_>>()
                    .join(", ")
            };
            let found = words(of).find(|(word, _)| word == text);
            found
                .map(|(_, number)| Value::EnumNumber(number))
                .ok_or_else(|| format!("`{text:.80}` is unknown: expected one of {}", expected()))
        }
        Kind::Message(of) => well_known(of, text),
        _ => Err("this field cannot be written as text".to_owned()),
    }
}

fn well_known(of: &MessageDescriptor, text: &str) -> Result<Value, String> {
    let mut message = DynamicMessage::new(of.clone());
    // `Timestamp` also parses times without a zone, hence the second check.
    let (filled, expected) = match of.name() {
        "Timestamp" => (
            Timestamp::from_str(text)
                .ok()
                .filter(|_| is_rfc3339(text))
                .and_then(|t| message.transcode_from(&t).ok()),
            "a time of RFC 3339 with its zone, such as 2026-01-31T12:00:00Z or 2026-01-31T12:00:00+02:00",
        ),
        "Duration" => (
            Duration::from_str(text)
                .ok()
                .and_then(|d| message.transcode_from(&d).ok()),
            "a duration such as 1.5s",
        ),
        _ => (None, "nothing: this field cannot be written as text"),
    };
    filled
        .map(|()| Value::Message(message))
        .ok_or_else(|| format!("`{text:.80}`: expected {expected}"))
}
