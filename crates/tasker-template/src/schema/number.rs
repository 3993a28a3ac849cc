//! The cost of numbers. The validator reads a number from its text, and computes exactly with one
//! that is not a plain integer of 64 bits: with an integer for each of its digits, as if the zeros
//! of its exponent were written out, and for a fraction with a numerator and a denominator.
//!
//! The formulas are upper bounds of times that were measured with numbers of 7 to 4,000 digits
//! (`cost_includes_each_number`), at 50 ns a step.

use serde_json::{Map, Number, Value};

/// Steps to compare two plain integers, both of which are parsed from their text.
pub(super) const PLAIN: u64 = 5;
/// A plain integer of so many digits fits 64 bits.
const PLAIN_DIGITS: u64 = 18;

/// The written form of a number, as far as its cost goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Form {
    /// Digits without an exponent, sign included.
    digits: u64,
    /// Neither a fraction nor an exponent.
    is_integer: bool,
}

impl Form {
    fn of(number: &Number) -> Form {
        let text = number.as_str();
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        // A longer exponent saturates, so that such a number exceeds every budget.
        let zeros = exponent.parse::<i64>().map_or(u64::MAX, i64::unsigned_abs);
        Form {
            digits: zeros.saturating_add(mantissa.len() as u64),
            is_integer: mantissa.len() == text.len() && !mantissa.contains('.'),
        }
    }

    fn is_plain(self) -> bool {
        self.is_integer && self.digits <= PLAIN_DIGITS
    }

    /// Steps to read it as an integer.
    fn integer(self) -> u64 {
        let square = self.digits.saturating_mul(self.digits) / 20_000;
        (PLAIN + self.digits / 8).saturating_add(square)
    }

    /// Steps to read it as a fraction.
    fn fraction(self) -> u64 {
        let square = self.digits.saturating_mul(self.digits) / 400;
        30_u64
            .saturating_add(self.digits.saturating_mul(4))
            .saturating_add(square)
    }

    /// Steps to read it, in the way that its form demands.
    fn exact(self) -> u64 {
        if self.is_integer {
            self.integer()
        } else {
            self.fraction()
        }
    }
}

/// Steps to compare a value with a number of the schema or of the document; the value's own
/// number counts beside it.
pub(super) fn comparison(number: &Number) -> u64 {
    let form = Form::of(number);
    if form.is_plain() { PLAIN } else { form.exact() }
}

/// The keywords of one place that look at a number.
#[derive(Debug, Default)]
pub(super) struct Numeric {
    /// Limits that are plain integers.
    plain_limits: u64,
    /// `multipleOf` a plain integer.
    plain_multiples: u64,
    /// Limits and `multipleOf` of another form, and the steps to read these.
    exact: u64,
    exact_steps: u64,
    /// `type: integer`.
    integer: bool,
}

impl Numeric {
    pub fn of(schema: &Map<String, Value>) -> Numeric {
        let mut found = Numeric {
            integer: match schema.get("type") {
                Some(Value::String(kind)) => kind == "integer",
                Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == "integer"),
                _ => false,
            },
            ..Numeric::default()
        };
        for keyword in [
            "minimum",
            "maximum",
            "exclusiveMinimum",
            "exclusiveMaximum",
            "multipleOf",
        ] {
            let Some(Value::Number(limit)) = schema.get(keyword) else {
                continue;
            };
            let form = Form::of(limit);
            // Such a limit forces exact arithmetic upon each value, also upon plain ones.
            if !form.is_plain() {
                found.exact += 1;
                found.exact_steps = found.exact_steps.saturating_add(form.fraction());
            } else if keyword == "multipleOf" {
                found.plain_multiples += 1;
            } else {
                found.plain_limits += 1;
            }
        }
        found
    }

    /// Steps to apply the keywords to a number.
    pub fn steps(&self, number: &Number) -> u64 {
        let form = Form::of(number);
        let (limit, multiple, integer) = if form.is_plain() {
            (1, 1, 1)
        } else {
            (8 + form.digits / 6, form.fraction(), form.exact())
        };
        [
            self.plain_limits.saturating_mul(limit),
            self.plain_multiples.saturating_mul(multiple),
            self.exact.saturating_mul(form.fraction()),
            self.exact_steps,
            if self.integer { integer } else { 0 },
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn number(text: &str) -> Number {
        serde_json::from_str(text).expect("a number")
    }

    #[test]
    fn exponent_counts_as_digits() {
        for (text, digits, is_integer) in [
            ("0", 1, true),
            ("-12", 3, true),
            ("1.5", 3, false),
            ("1e300", 301, false),
            ("1.25E-4000", 4004, false),
            ("123456789012345678", 18, true),
        ] {
            let form = Form::of(&number(text));
            assert_eq!(form, Form { digits, is_integer }, "{text}");
        }
        assert!(Form::of(&number("123456789012345678")).is_plain());
        assert!(!Form::of(&number("1234567890123456789")).is_plain());
    }

    #[test]
    fn cost_of_plain_integers_is_lower_than_of_other_numbers() {
        let numeric = |schema: Value| Numeric::of(schema.as_object().expect("a map"));
        let limits = numeric(json!({"type": "integer", "minimum": 0, "maximum": 10}));
        assert_eq!(limits.steps(&number("7")), 3);
        assert!(limits.steps(&number("1e4000")) > 1_000);
        let price = numeric(json!({"minimum": 0.01, "multipleOf": 0.01}));
        assert!((50..300).contains(&price.steps(&number("19.99"))));
        assert!(price.steps(&number("1e-4000")) > 50_000);
        assert_eq!(numeric(json!({"type": "string"})).steps(&number("1e9")), 0);
    }
}
