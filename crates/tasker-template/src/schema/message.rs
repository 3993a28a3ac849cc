//! The validator's errors as messages of one line.

use std::fmt;

use jsonschema::ValidationError;
use jsonschema::error::ValidationErrorKind as Kind;
use serde_json::Value;

use super::{SchemaProblem, Violation};
pub(super) use crate::text::cut;

/// A message replaces a longer value by "the value".
const MAX_VALUE_BYTES: usize = 60;

/// The most names of properties in a message about properties that the schema does not allow.
const MAX_NAMES: usize = 20;
/// The most bytes of the validator's message that are formatted: it can repeat a list of thousands.
const MAX_WRITTEN_BYTES: usize = 1024;

/// The start of a text; formatting stops once it is long enough.
fn start(text: &impl fmt::Display) -> String {
    struct Start(String);
    impl fmt::Write for Start {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.push_str(text);
            if self.0.len() > MAX_WRITTEN_BYTES {
                Err(fmt::Error)
            } else {
                Ok(())
            }
        }
    }
    let mut start = Start(String::new());
    // An error means that the text is long enough.
    let _ = fmt::write(&mut start, format_args!("{text}"));
    start.0
}

pub(super) fn violation(error: &ValidationError<'_>) -> Violation {
    // The validator's message quotes the value, so a large one would fill the whole message.
    let short = match error.instance().as_ref() {
        Value::String(text) => text.len() <= MAX_VALUE_BYTES,
        Value::Number(number) => number.as_str().len() <= MAX_VALUE_BYTES,
        Value::Bool(_) | Value::Null => true,
        Value::Array(_) | Value::Object(_) => false,
    };
    let message = match error.kind() {
        Kind::Required {
            property: Value::String(name),
        } => format!("the property {name:?} is required"),
        Kind::FalseSchema => "the schema allows no value here".into(),
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            let names: Vec<String> = unexpected
                .iter()
                .take(MAX_NAMES)
                .map(|name| format!("{name:?}"))
                .collect();
            let more = if unexpected.len() > MAX_NAMES {
                ", …"
            } else {
                ""
            };
            format!("the schema allows no property {}{more}", names.join(", "))
        }
        _ if short => start(error),
        _ => start(&error.masked_with("the value")),
    };
    Violation {
        pointer: error.instance_path().as_str().to_owned(),
        message: cut(&message),
    }
}

/// Describes an error against the metaschema, whose values are parts of a schema.
pub(super) fn schema_problem(error: &ValidationError<'_>) -> SchemaProblem {
    let Violation { pointer, message } = violation(error);
    let keyword = pointer.rsplit('/').next().unwrap_or_default();
    // The metaschema expresses these keywords by `anyOf` and by lists of types, whose messages do
    // not name the expected form.
    let message = match (error.kind(), keyword) {
        (Kind::AnyOf { .. }, "type") => {
            "expected array, boolean, integer, null, number, object, string, or a list of these without repetition"
                .into()
        }
        (Kind::AnyOf { .. }, "items") => "expected a schema or a list of schemas".into(),
        (Kind::Type { .. }, _) if error.masked().to_string().ends_with("is not of types \"boolean\", \"object\"") => {
            "expected a schema: a mapping, true or false".into()
        }
        _ => message,
    };
    SchemaProblem { pointer, message }
}
