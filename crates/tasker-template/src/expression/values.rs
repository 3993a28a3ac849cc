//! Conversion of JSON to CEL values and back, without losing a digit.

use std::collections::HashMap;
use std::fmt;

use serde_json::{Map, Number, Value};

use super::reads::Reads;
use super::{MAX_EXACT_DOUBLE, Variable};
use crate::text::shorten;

/// The most digits of an integer of 64 bits.
const MAX_INTEGER_DIGITS: usize = 20;

/// The place of a value, for an error message; formatted only for an error.
#[derive(Clone, Copy)]
struct Path<'p> {
    above: Option<&'p Path<'p>>,
    name: Name<'p>,
}

#[derive(Clone, Copy)]
enum Name<'p> {
    Field(&'p str),
    Item(usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.above.map_or(Ok(()), |above| above.fmt(f))?;
        match (self.name, self.above) {
            (Name::Item(index), _) => write!(f, "[{index}]"),
            (Name::Field(name), None) => f.write_str(name),
            (Name::Field(name), Some(_)) => write!(f, ".{name}"),
        }
    }
}

/// Converts the parts of a variable that the expression reads to a CEL value. A part of which only
/// the presence matters, as in `has`, is converted without its content.
///
/// # Errors
/// A number that CEL cannot hold.
pub(super) fn to_cel(
    variable: Variable<'_>,
    name: &str,
    reads: &Reads,
) -> Result<cel::Value, String> {
    let path = Path {
        above: None,
        name: Name::Field(name),
    };
    match variable {
        Variable::Document(value) => part(value, reads, path),
        // Only the steps that the expression reads: the results of the others may be large.
        Variable::Results(results) => {
            let read = results.iter().filter_map(|(step, value)| {
                let reads = reads.of_part(step)?;
                Some((
                    *step,
                    part(
                        value,
                        reads,
                        Path {
                            above: Some(&path),
                            name: Name::Field(step),
                        },
                    ),
                ))
            });
            let entries = read.map(|(step, value)| Ok((step.to_owned(), value?)));
            Ok(cel::Value::from(
                entries.collect::<Result<HashMap<String, cel::Value>, String>>()?,
            ))
        }
    }
}

fn part(value: &Value, reads: &Reads, path: Path<'_>) -> Result<cel::Value, String> {
    match value {
        _ if reads.whole => whole(value, path),
        Value::Object(map) => {
            // `bounds::part_size` counts this work and has to follow the same parts. A missing
            // field stays missing, on which `has` and the error of a selection depend.
            let read = reads
                .parts
                .iter()
                .filter_map(|(name, reads)| Some((name, map.get(name)?, reads)));
            let entries = read.map(|(name, value, reads)| {
                Ok((
                    name.clone(),
                    part(
                        value,
                        reads,
                        Path {
                            above: Some(&path),
                            name: Name::Field(name),
                        },
                    )?,
                ))
            });
            Ok(cel::Value::from(
                entries.collect::<Result<HashMap<String, cel::Value>, String>>()?,
            ))
        }
        Value::Null => Ok(cel::Value::Null),
        // A stand-in without fields: the expression reads fields of a value that has none.
        _ => Ok(cel::Value::Bool(false)),
    }
}

fn whole(value: &Value, path: Path<'_>) -> Result<cel::Value, String> {
    let below = |name| Path {
        above: Some(&path),
        name,
    };
    Ok(match value {
        Value::Null => cel::Value::Null,
        Value::Bool(value) => cel::Value::Bool(*value),
        Value::Number(number) => number_to_cel(number, path)?,
        Value::String(text) => cel::Value::from(text.as_str()),
        Value::Array(items) => {
            let items = items
                .iter()
                .enumerate()
                .map(|(index, item)| whole(item, below(Name::Item(index))));
            cel::Value::List(items.collect::<Result<Vec<_>, _>>()?.into())
        }
        Value::Object(map) => {
            let entries = map
                .iter()
                .map(|(key, value)| Ok((key.clone(), whole(value, below(Name::Field(key)))?)));
            cel::Value::from(entries.collect::<Result<HashMap<String, cel::Value>, String>>()?)
        }
    })
}

/// A number without a fraction is an integer, however it is written: in JSON Schema, 1.0 and 1e2
/// are of type `integer`.
fn number_to_cel(number: &Number, path: Path<'_>) -> Result<cel::Value, String> {
    let text = number.as_str();
    let limit = match integer(text) {
        Some(Integer::Small(value)) => {
            // Signed first, as CEL's own integers are; only a larger number becomes unsigned.
            if let Ok(value) = i64::try_from(value) {
                return Ok(cel::Value::Int(value));
            }
            if let Ok(value) = u64::try_from(value) {
                return Ok(cel::Value::UInt(value));
            }
            "an integer has at most 64 bits"
        }
        Some(Integer::Large) => "an integer has at most 64 bits",
        None => match text.parse::<f64>() {
            // As a float, a larger number would lose digits, and a comparison could be wrong
            // silently.
            Ok(value) if value.abs() < MAX_EXACT_DOUBLE => return Ok(cel::Value::Float(value)),
            _ => "a number with a fraction is below 2^53",
        },
    };
    Err(format!(
        "`{}` is {}, but in an expression {limit}",
        shorten(&path.to_string()),
        shorten(text)
    ))
}

enum Integer {
    Small(i128),
    /// More digits than 64 bits have.
    Large,
}

/// Whether the value of a number has no fraction.
pub(super) fn is_integer(number: &Number) -> bool {
    integer(number.as_str()).is_some()
}

/// The value of a number in JSON syntax, if it has no fraction. By its digits: as a float, it could
/// lose some.
fn integer(text: &str) -> Option<Integer> {
    if let Ok(value) = text.parse::<i64>() {
        return Some(Integer::Small(value.into()));
    }
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let sign = if whole.starts_with('-') { "-" } else { "" };
    let digits = format!("{}{fraction}", whole.trim_start_matches('-'));
    let significant = digits.trim_start_matches('0').trim_end_matches('0');
    if significant.is_empty() {
        return Some(Integer::Small(0));
    }
    // Zeros that follow the last significant digit, or, if negative, its distance behind the point.
    let trailing = digits.len() - digits.trim_end_matches('0').len();
    let zeros = exponent
        .parse::<i64>()
        .ok()?
        .checked_sub(i64::try_from(fraction.len()).ok()?)?
        .checked_add(i64::try_from(trailing).ok()?)?;
    let zeros = usize::try_from(zeros).ok()?;
    if significant.len().saturating_add(zeros) > MAX_INTEGER_DIGITS {
        return Some(Integer::Large);
    }
    let value = format!("{sign}{significant}{}", "0".repeat(zeros)).parse();
    value.ok().map(Integer::Small)
}

/// Converts a CEL value to JSON.
///
/// # Errors
/// A value that JSON does not have, such as a number that is not finite.
pub(super) fn to_json(value: &cel::Value) -> Result<Value, String> {
    Ok(match value {
        cel::Value::Null => Value::Null,
        cel::Value::Bool(value) => Value::Bool(*value),
        cel::Value::Int(value) => Value::from(*value),
        cel::Value::UInt(value) => Value::from(*value),
        // A division by zero gives infinity or no number at all.
        cel::Value::Float(value) => match Number::from_f64(*value) {
            Some(number) => Value::Number(number),
            None => {
                return Err(format!(
                    "its value is {value}, which is not a number in JSON"
                ));
            }
        },
        cel::Value::String(text) => Value::String(text.to_string()),
        cel::Value::List(items) => {
            Value::Array(items.iter().map(to_json).collect::<Result<_, _>>()?)
        }
        cel::Value::Map(map) => {
            let entries = map
                .map
                .iter()
                .map(|(key, value)| Ok((key.to_string(), to_json(value)?)));
            let mut entries: Vec<(String, Value)> = entries.collect::<Result<_, String>>()?;
            // A CEL map has no order; sorting makes equal values give equal texts.
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            Value::Object(Map::from_iter(entries))
        }
        other => {
            return Err(format!(
                "its value is a {}, which JSON does not have",
                other.type_of()
            ));
        }
    })
}
