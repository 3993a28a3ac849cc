//! Reads a message of the protocol from a JSON body, a query and a path. One answer lists all
//! errors, each with its place. A nested document is copied unparsed; the engine checks it like all
//! documents.

use std::{collections::HashMap, str::FromStr};

use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, ReflectMessage as _, Value,
};
use prost_types::{Duration, Timestamp};
use serde::{
    Deserialize, Deserializer,
    de::{
        DeserializeOwned, DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
    },
};
use serde_json::value::RawValue;

use crate::{
    domain::time::is_rfc3339,
    engine::intake::Violated,
    json::protocol::{is_document, key, value_kind, words},
};

/// Bound on the errors recorded for a request; the reader stops there.
pub const MAX_VIOLATIONS: usize = 100;
/// Bound on the elements of a list or a map.
const MAX_ITEMS: usize = 10_000;

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
    let read = object.deserialize(&mut reader).and_then(|()| reader.end());
    match read {
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
            if violated.len() >= MAX_VIOLATIONS {
                return Err(A::Error::custom("too many violations"));
            }
            let Some(field) = named(&descriptor, &name).filter(|f| !taken.contains(&f.name()))
            else {
                violated.push(unknown(&below(at, &name), &descriptor, taken));
                map.next_value::<IgnoredAny>()?;
                continue;
            };
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

fn noted<T>(value: Result<T, String>, at: &str, violated: &mut Vec<Violated>) -> Option<T> {
    value
        .map_err(|message| violated.push(wrong(at, message)))
        .ok()
}

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
            Value::List(items) => items.push(value),
            _ if pairs.iter().filter(|(other, _)| other == name).count() > 1 => {
                violated.push(wrong(name, "it appears twice"));
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

fn from_text(kind: &Kind, text: &str) -> Result<Value, String> {
    fn number<T: DeserializeOwned>(text: &str, what: &str) -> Result<T, String> {
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

fn named(descriptor: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    descriptor.fields().find(|field| key(field) == name)
}

fn unknown(at: &str, descriptor: &MessageDescriptor, taken: &[&str]) -> Violated {
    let fields: Vec<FieldDescriptor> = descriptor
        .fields()
        .filter(|f| !taken.contains(&f.name()))
        .collect();
    let known: Vec<&str> = fields.iter().map(key).collect();
    let expected = if known.is_empty() {
        "nothing".to_owned()
    } else {
        format!("one of {}", known.join(", "))
    };
    wrong(at, format!("unknown: expected {expected}"))
}

/// The JSON pointer of a member.
fn below(at: &str, name: &str) -> String {
    format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"))
}

fn wrong(field: &str, message: impl Into<String>) -> Violated {
    Violated {
        field: field.to_owned(),
        message: message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{json::protocol::rpc, proto};

    fn submit(json: &str) -> Result<proto::SubmitTaskRequest, Vec<(String, String)>> {
        let mut message = DynamicMessage::new(rpc("TaskService/SubmitTask").input());
        body(&mut message, json, &[]).map_err(said)?;
        Ok(message.transcode_to().unwrap())
    }

    fn list(query: &[(&str, &str)]) -> Result<proto::ListTasksRequest, Vec<(String, String)>> {
        let mut message = DynamicMessage::new(rpc("TaskService/ListTasks").input());
        let pairs: Vec<_> = query
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        texts(&mut message, &pairs, &["page_token"]).map_err(said)?;
        Ok(message.transcode_to().unwrap())
    }

    fn said(violated: Vec<Violated>) -> Vec<(String, String)> {
        violated.into_iter().map(|v| (v.field, v.message)).collect()
    }

    #[test]
    fn document_is_copied_and_null_counts_as_unset() {
        let json = r#"{"task_name":"t","context": {"z": 9007199254740993,"a":1.10} ,"priority":-3,"version":null}"#;
        let request = submit(json).unwrap();
        assert_eq!(request.context_json, r#"{"z": 9007199254740993,"a":1.10}"#);
        assert_eq!(
            (
                request.task_name.as_str(),
                request.priority,
                request.version.as_str()
            ),
            ("t", -3, "")
        );
    }

    #[test]
    fn body_with_several_violations_reports_all() {
        let wrong = submit(
            r#"{"task_name":1,"priority":1.5,"a/b":0,"context_json":"{}","version":"1","version":"2"}"#,
        );
        let places: Vec<String> = wrong
            .unwrap_err()
            .into_iter()
            .map(|(place, _)| place)
            .collect();
        assert_eq!(
            places,
            [
                "/task_name",
                "/priority",
                "/a~1b",
                "/context_json",
                "/version"
            ]
        );
        for json in ["", "[]", "1", "{", "{}x"] {
            assert_eq!(submit(json).unwrap_err()[0].0, "", "{json}");
        }
    }

    #[test]
    fn violations_of_a_body_are_bounded() {
        let many = |n: usize| format!("{{{}}}", vec![r#""":0"#; n].join(","));
        for (members, noted) in [
            (MAX_VIOLATIONS - 1, 99),
            (MAX_VIOLATIONS, 100),
            (MAX_VIOLATIONS + 1, 100),
            (400_000, 100),
        ] {
            assert_eq!(
                submit(&many(members)).unwrap_err().len(),
                noted,
                "{members}"
            );
        }
        // The reader stops there, so the rest of the text does not matter.
        assert_eq!(
            submit(&many(400_000).replace('}', "")).unwrap_err().len(),
            100
        );
        assert_eq!(submit(&many(50).replace('}', "")).unwrap_err()[0].0, "");
        let twice = format!(r#"{{"version":"1"{}}}"#, r#","version":"2""#.repeat(1_000));
        assert_eq!(submit(&twice).unwrap_err().len(), 100);
        let query = vec![("states", "gone"); 1_000];
        assert_eq!(list(&query).unwrap_err().len(), 100);
    }

    #[test]
    fn list_over_ten_thousand_elements_is_refused() {
        let unset = |n: usize| {
            let mut message = DynamicMessage::new(rpc("CircuitService/SetPolicy").input());
            let json = format!(r#"{{"unset":[{}]}}"#, vec![r#""x""#; n].join(","));
            body(&mut message, &json, &[]).map_err(said)
        };
        assert!(unset(MAX_ITEMS).is_ok());
        let wrong = unset(MAX_ITEMS + 1).unwrap_err();
        assert_eq!(
            wrong,
            [(
                "/unset".to_owned(),
                "too long: expected at most 10000 elements".to_owned()
            )]
        );
    }

    #[test]
    fn query_is_parsed_by_the_kinds_of_its_fields() {
        let request = list(&[
            ("states", "error"),
            ("states", "in_progress"),
            ("page_size", "7"),
            ("submitted_after", "2026-01-01T00:00:00Z"),
        ]);
        let request = request.unwrap();
        assert_eq!(
            request.states,
            [
                proto::TaskState::Error as i32,
                proto::TaskState::InProgress as i32
            ]
        );
        assert_eq!(
            (request.page_size, request.submitted_after.unwrap().seconds),
            (7, 1_767_225_600)
        );
        let wrong = list(&[
            ("states", "gone"),
            ("page_size", "x"),
            ("submitted_after", "noon"),
            ("page_token", ""),
        ]);
        let wrong = wrong.unwrap_err();
        assert_eq!(
            wrong
                .iter()
                .map(|(place, _)| place.as_str())
                .collect::<Vec<_>>(),
            ["states", "page_size", "submitted_after", "page_token"]
        );
        assert!(
            wrong[0].1.contains("expected one of pending, in_progress"),
            "{wrong:?}"
        );
        assert!(list(&[("namespace", "a"), ("namespace", "b")]).is_err());
        assert!(list(&[("submitted_after", "2026-01-01T00:00:00+02:00")]).is_ok());
        for local in ["2026-01-01T00:00:00", "2026-01-01 00:00:00", "2026-01-01"] {
            let wrong = list(&[("submitted_after", local)]).unwrap_err();
            assert!(wrong[0].1.contains("RFC 3339 with its zone"), "{wrong:?}");
        }
    }
}
