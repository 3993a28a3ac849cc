//! Texts with embedded expressions: `${context.plan} customer`.

use serde_json::Value;

use crate::expression::lexeme::Lexeme;
use crate::expression::{EvaluationError, Expression, ExpressionProblem, Values};

/// A text and the expressions to be evaluated into it.
#[derive(Debug, Clone, PartialEq)]
pub struct Interpolation(Vec<Part>);

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    Value(Expression),
}

impl Interpolation {
    /// Reads a text with `${...}` in it; `$${` stands for a literal `${`. `None` if the text has
    /// neither.
    ///
    /// # Errors
    /// The first problem of an expression, with its place in the text.
    pub(super) fn read(
        text: &str,
        mut compile: impl FnMut(&str) -> Result<Expression, ExpressionProblem>,
    ) -> Result<Option<Interpolation>, ExpressionProblem> {
        let (mut parts, mut plain, mut at) = (Vec::new(), String::new(), 0);
        while let Some(found) = text[at..].find("${") {
            let dollar = at + found;
            // The first `$` stays as text, so only the brace is added.
            if text[at..dollar].ends_with('$') {
                plain.push_str(&text[at..dollar]);
                plain.push('{');
                at = dollar + 2;
                continue;
            }
            plain.push_str(&text[at..dollar]);
            let source = dollar + 2;
            let Some(length) = length(&text[source..]) else {
                return Err(placed(
                    text,
                    dollar,
                    1,
                    1,
                    "expected `}` after `${`; a text with `${` in it has `$${`".into(),
                ));
            };
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            let expression = compile(&text[source..source + length]).map_err(|problem| {
                placed(text, source, problem.line, problem.column, problem.message)
            })?;
            parts.push(Part::Value(expression));
            at = source + length + 1;
        }
        if at == 0 {
            return Ok(None);
        }
        plain.push_str(&text[at..]);
        // No empty text after a single expression, which `value` recognises by its being alone.
        if !plain.is_empty() || parts.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Some(Interpolation(parts)))
    }

    /// The text with its values inserted; a text that consists of one `${...}` alone evaluates to
    /// that value, of any type.
    ///
    /// # Errors
    /// As [`Expression::holds`].
    pub fn value(&self, values: &Values<'_>) -> Result<Value, EvaluationError> {
        if let [Part::Value(expression)] = self.0.as_slice() {
            return expression.value(values);
        }
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Value(expression) => match expression.value(values)? {
                    Value::String(value) => text.push_str(&value),
                    other => text.push_str(&other.to_string()),
                },
            }
        }
        Ok(Value::String(text))
    }
}

/// Length in bytes of the expression at the start of `text`: up to the first `}` outside its own
/// braces, strings and comments.
fn length(text: &str) -> Option<usize> {
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(lexeme) = Lexeme::first(&text[at..]) {
        match lexeme {
            Lexeme::Sign('}') if depth == 0 => return Some(at),
            Lexeme::Sign('}') => depth -= 1,
            Lexeme::Sign('{') => depth += 1,
            _ => {}
        }
        at += lexeme.length()?;
    }
    None
}

/// Translates a place in the part that starts at byte `start` of `text` into a place in `text`.
fn placed(text: &str, start: usize, line: u32, column: u32, message: String) -> ExpressionProblem {
    let (first_line, first_column) = crate::expression::line_and_column(text, start);
    let column = if line == 1 {
        first_column + column - 1
    } else {
        column
    };
    ExpressionProblem {
        line: first_line + line - 1,
        column,
        message,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::budget::Budget;
    use crate::expression::{Scope, Type};

    fn read(text: &str) -> Result<Option<Interpolation>, ExpressionProblem> {
        let context = Type::of_context(Some(
            &json!({"properties": {"plan": {}, "n": {"type": "integer"}}}),
        ));
        Interpolation::read(text, |source| {
            Expression::compile(
                source,
                &Scope {
                    context: &context,
                    results: None,
                },
            )
        })
    }

    #[test]
    fn single_expression_keeps_its_type_and_mixed_text_becomes_a_string() {
        let context = json!({"plan": "pro", "n": 7});
        let (task, budget) = (json!({"priority": 3}), Budget::new());
        for (text, expected) in [
            ("${context.plan}", json!("pro")),
            ("${context.n}", json!(7)),
            ("${{'a': context.n}}", json!({"a": 7})),
            ("${'}'}", json!("}")),
            (r#"${"\"}"}"#, json!("\"}")),
            (r"${r'}\'}.", json!(r"}\.")),
            (r#"${R"\}"}"#, json!(r"\}")),
            ("${'''it's }}'''}", json!("it's }}")),
            (r#"${r"""a"}\"""}"#, json!(r#"a"}\"#)),
            ("${context.n // it's {}}\n}", json!(7)),
            ("${context.plan} ${context.n + 1}!", json!("pro 8!")),
            (" ${context.n}", json!(" 7")),
            (
                "a $${context.n} ${task.priority}",
                json!("a ${context.n} 3"),
            ),
            ("$${x}", json!("${x}")),
            ("${[context.n]}.", json!("[7].")),
        ] {
            let found = read(text).expect(text).expect(text);
            assert_eq!(
                found.value(&Values::of_task(&context, &task, &budget)),
                Ok(expected),
                "{text}"
            );
        }
        for text in ["", "plain", "$", "{}", "$ {x}"] {
            assert_eq!(read(text), Ok(None), "{text}");
        }
        let missing = read("x ${context.plan}").expect("valid").expect("one");
        let why = EvaluationError::Failed("`context` has no field `plan`".into());
        assert_eq!(
            missing.value(&Values::of_task(&json!({}), &task, &budget)),
            Err(why)
        );
    }

    #[test]
    fn problem_has_its_position_in_the_text() {
        for (text, line, column, message) in [
            ("é ${context.pln}", 1, 12, "has no field `pln`"),
            ("a\nb ${context.pln}", 2, 12, "has no field `pln`"),
            ("${context.n +\n  context.pln}", 2, 10, "has no field `pln`"),
            ("ab ${context.n", 1, 4, "expected `}` after `${`"),
            ("${r'}'", 1, 1, "expected `}` after `${`"),
            ("${}", 1, 3, "expected an expression, found nothing"),
            ("${context.n} ${x}", 1, 16, "unknown variable `x`"),
        ] {
            let problem = read(text).expect_err(text);
            assert!(problem.message.contains(message), "{text}: {problem}");
            assert_eq!(
                (problem.line, problem.column),
                (line, column),
                "{text}: {problem}"
            );
        }
    }
}
