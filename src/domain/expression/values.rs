//! JSON to the language's values and back, without losing a digit on the way.

use std::collections::HashMap;

use serde_json::{Map, Number, Value};

use super::MAX_EXACT_DOUBLE;
use super::reads::Reads;
use crate::domain::words::shorten;

/// What of a value is read. What is only asked for, as by `has`, is there without its content.
pub(super) fn part(value: &Value, reads: &Reads) -> Value {
    match value {
        _ if reads.whole => value.clone(),
        Value::Object(map) => {
            let read = reads.parts.iter().filter_map(|(name, reads)| Some((name.clone(), part(map.get(name)?, reads))));
            Value::Object(read.collect())
        }
        Value::Null => Value::Null,
        // Something that has no fields.
        _ => Value::Bool(false),
    }
}

/// # Errors
/// A number that the language cannot hold; `path` says where it is.
pub(super) fn to_cel(value: &Value, path: &str) -> Result<cel::Value, String> {
    Ok(match value {
        Value::Null => cel::Value::Null,
        Value::Bool(value) => cel::Value::Bool(*value),
        Value::Number(number) => number_to_cel(number, path)?,
        Value::String(text) => cel::Value::from(text.as_str()),
        Value::Array(items) => {
            let items = items.iter().enumerate().map(|(index, item)| to_cel(item, &format!("{path}[{index}]")));
            cel::Value::List(items.collect::<Result<Vec<_>, _>>()?.into())
        }
        Value::Object(map) => {
            let entries = map.iter().map(|(key, value)| Ok((key.clone(), to_cel(value, &format!("{path}.{key}"))?)));
            cel::Value::from(entries.collect::<Result<HashMap<String, cel::Value>, String>>()?)
        }
    })
}

fn number_to_cel(number: &Number, path: &str) -> Result<cel::Value, String> {
    let text = number.as_str();
    if let Ok(value) = text.parse::<i64>() {
        return Ok(cel::Value::Int(value));
    }
    if let Ok(value) = text.parse::<u64>() {
        return Ok(cel::Value::UInt(value));
    }
    let is_integer = !text.contains(['.', 'e', 'E']);
    match text.parse::<f64>() {
        Ok(value) if !is_integer && value.abs() < MAX_EXACT_DOUBLE => Ok(cel::Value::Float(value)),
        _ => {
            let limit = if is_integer {
                "an integer has at most 64 bits"
            } else {
                "a number with a fraction or an exponent is below 2^53"
            };
            Err(format!("`{}` is {}, but in an expression {limit}", shorten(path), shorten(text)))
        }
    }
}

/// # Errors
/// A value that JSON does not have, such as a number that is not finite.
pub(super) fn to_json(value: &cel::Value) -> Result<Value, String> {
    Ok(match value {
        cel::Value::Null => Value::Null,
        cel::Value::Bool(value) => Value::Bool(*value),
        cel::Value::Int(value) => Value::from(*value),
        cel::Value::UInt(value) => Value::from(*value),
        cel::Value::Float(value) => match Number::from_f64(*value) {
            Some(number) => Value::Number(number),
            None => return Err(format!("it comes to {value}, which is not a number in JSON")),
        },
        cel::Value::String(text) => Value::String(text.to_string()),
        cel::Value::List(items) => Value::Array(items.iter().map(to_json).collect::<Result<_, _>>()?),
        cel::Value::Map(map) => {
            let entries = map.map.iter().map(|(key, value)| Ok((key.to_string(), to_json(value)?)));
            let mut entries: Vec<(String, Value)> = entries.collect::<Result<_, String>>()?;
            // The language keeps no order, and the same values have to give the same text.
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Object(Map::from_iter(entries))
        }
        other => return Err(format!("it comes to a {}, which JSON does not have", other.type_of())),
    })
}
