//! The errors of a request, each with its place.

use prost_reflect::{FieldDescriptor, MessageDescriptor};

use crate::{engine::Violated, json::protocol::key};

/// Bound on the errors recorded for a request; the reader stops there.
pub const MAX_VIOLATIONS: usize = 100;

pub fn named(descriptor: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    descriptor.fields().find(|field| key(field) == name)
}

pub fn unknown(at: &str, descriptor: &MessageDescriptor, taken: &[&str]) -> Violated {
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
pub fn below(at: &str, name: &str) -> String {
    format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"))
}

pub fn wrong(field: &str, message: impl Into<String>) -> Violated {
    Violated {
        field: field.to_owned(),
        message: message.into(),
    }
}

pub fn noted<T>(value: Result<T, String>, at: &str, violated: &mut Vec<Violated>) -> Option<T> {
    value
        .map_err(|message| violated.push(wrong(at, message)))
        .ok()
}
