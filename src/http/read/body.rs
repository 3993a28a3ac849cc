//! A message from a JSON body, member by member.

use std::collections::HashMap;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage as _, Value};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    text::from_text,
    violation::{MAX_VIOLATIONS, below, named, noted, unknown, wrong},
};
use crate::{
    engine::Violated,
    json::protocol::{is_document, value_kind},
};

/// Bound on the elements of a list or a map.
pub const MAX_ITEMS: usize = 10_000;

/// Fills `message` from a JSON object. Each error has its JSON pointer as the field. `taken` are
/// the fields that come from elsewhere and are refused here.
pub fn body(message: &mut DynamicMessage, json: &str, taken: &[&str]) -> Result<(), Vec<Violated>> {
    let mut violated = Vec::new();
    let mut reader = serde_json::Deserializer::from_str(json);
    let object = Object {
        message,
        at: "",
        taken,
        violated: &mut violated,
    };
    // The end is checked too: text behind the object would be ignored otherwise.
    let read = object.deserialize(&mut reader).and_then(|()| reader.end());
    match read {
        // At the bound on violations the reader stops with an error, and they are the answer. Any
        // other error is one of syntax, from which the violations before it may follow.
        Err(error) if violated.len() < MAX_VIOLATIONS => {
            Err(vec![wrong("", format!("not a JSON object: {error}"))])
        }
        _ if violated.is_empty() => Ok(()),
        _ => Err(violated),
    }
}

/// An object, read member by member. Unknown members are skipped without being stored.
struct Object<'a> {
    message: &'a mut DynamicMessage,
    at: &'a str,
    taken: &'a [&'a str],
    violated: &'a mut Vec<Violated>,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self {
            message,
            at,
            taken,
            violated,
        } = self;
        let descriptor = message.descriptor();
        let mut seen = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            // An error is the only way to stop the deserializer.
            if violated.len() >= MAX_VIOLATIONS {
                return Err(A::Error::custom("too many violations"));
            }
            let Some(field) = named(&descriptor, &name).filter(|f| !taken.contains(&f.name()))
            else {
                violated.push(unknown(&below(at, &name), &descriptor, taken));
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            // Borrowed from the text, so that a value is copied only once its kind is known.
            let raw = map.next_value::<&RawValue>()?;
            let place = below(at, &name);
            if seen.contains(&name) {
                violated.push(wrong(&place, "it appears twice"));
            } else if raw.get() != "null" {
                match member(&field, raw, &place, violated) {
                    Some(value) => message.set_field(&field, value),
                    None => continue,
                }
            }
            seen.push(name);
        }
        Ok(())
    }
}

/// The elements of a list or the entries of a map, each passed to `one`, which returns whether to
/// continue.
struct Items<F>(F);

impl<'de, F: FnMut(Option<String>, &'de RawValue) -> bool> Visitor<'de> for Items<F> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("elements")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        while let Some(item) = seq.next_element::<&RawValue>()? {
            if !self.0(None, item) {
                return Err(A::Error::custom("an element is invalid"));
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some((key, item)) = map.next_entry::<String, &RawValue>()? {
            if !self.0(Some(key), item) {
                return Err(A::Error::custom("an entry is invalid"));
            }
        }
        Ok(())
    }
}

/// The value of a field; `None` after an error was recorded.
fn member(
    field: &FieldDescriptor,
    raw: &RawValue,
    at: &str,
    violated: &mut Vec<Violated>,
) -> Option<Value> {
    let (kind, document) = (value_kind(field), is_document(field));
    let mut reader = serde_json::Deserializer::from_str(raw.get());
    let before = violated.len();
    let (read, filled, expected) = if field.is_list() {
        let mut items = Vec::new();
        let one = |_: Option<String>, item: &RawValue| {
            let place = below(at, &items.len().to_string());
            if items.len() == MAX_ITEMS {
                violated.push(wrong(
                    at,
                    format!("too long: expected at most {MAX_ITEMS} elements"),
                ));
                return false;
            }
            let value = value(&kind, document, item, &place, violated);
            value.map(|value| items.push(value)).is_some()
        };
        (
            reader.deserialize_seq(Items(one)),
            Value::List(items),
            "expected an array",
        )
    } else if field.is_map() {
        let mut entries = HashMap::new();
        let one = |key: Option<String>, item: &RawValue| {
            let key = key.unwrap_or_default();
            if entries.len() == MAX_ITEMS {
                violated.push(wrong(
                    at,
                    format!("too long: expected at most {MAX_ITEMS} entries"),
                ));
                return false;
            }
            let value = value(&kind, document, item, &below(at, &key), violated);
            value
                .map(|value| entries.insert(MapKey::String(key), value))
                .is_some()
        };
        (
            reader.deserialize_map(Items(one)),
            Value::Map(entries),
            "expected an object",
        )
    } else {
        return value(&kind, document, raw, at, violated);
    };
    // If the element itself was wrong, its own violation is more precise.
    if read.is_err() && violated.len() == before {
        violated.push(wrong(at, expected));
    }
    read.ok().map(|()| filled)
}

fn value(
    kind: &Kind,
    document: bool,
    raw: &RawValue,
    at: &str,
    violated: &mut Vec<Violated>,
) -> Option<Value> {
    // A document is stored as it was sent, so it is copied and not parsed.
    if document {
        return Some(Value::String(raw.get().to_owned()));
    }
    match kind {
        Kind::String => parse(raw, "a string", at, violated).map(Value::String),
        Kind::Bool => parse(raw, "true or false", at, violated).map(Value::Bool),
        Kind::Int32 => parse(raw, "an integer of 32 bits", at, violated).map(Value::I32),
        Kind::Int64 => parse(raw, "an integer of 64 bits", at, violated).map(Value::I64),
        Kind::Uint32 => parse(raw, "an unsigned integer of 32 bits", at, violated).map(Value::U32),
        Kind::Uint64 => parse(raw, "an unsigned integer of 64 bits", at, violated).map(Value::U64),
        Kind::Double => parse(raw, "a number", at, violated).map(Value::F64),
        Kind::Message(of) if !of.full_name().starts_with("google.protobuf.") => {
            let mut message = DynamicMessage::new(of.clone());
            let before = violated.len();
            let mut reader = serde_json::Deserializer::from_str(raw.get());
            let object = Object {
                message: &mut message,
                at,
                taken: &[],
                violated,
            };
            // The nested reader has recorded the precise violations, if it found an object at all.
            if object.deserialize(&mut reader).is_err() && violated.len() == before {
                violated.push(wrong(at, "expected an object"));
            }
            (violated.len() == before).then_some(Value::Message(message))
        }
        other => {
            let word: String = parse(raw, "a string", at, violated)?;
            noted(from_text(other, &word), at, violated)
        }
    }
}

fn parse<'a, T: Deserialize<'a>>(
    raw: &'a RawValue,
    what: &str,
    at: &str,
    violated: &mut Vec<Violated>,
) -> Option<T> {
    noted(
        serde_json::from_str(raw.get()).map_err(|_| format!("expected {what}")),
        at,
        violated,
    )
}
