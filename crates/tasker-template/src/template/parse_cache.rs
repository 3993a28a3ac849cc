//! Cache of parsed expressions and compiled schemas, which are the same in each environment.

use std::collections::HashMap;

use serde_json::Value;

use crate::expression::{Expression, ExpressionProblem, Parsed, Scope, TypeReader};
use crate::limits::MAX_EXPRESSIONS_BYTES;
use crate::schema::{Allowance, ContextSchema, SchemaProblem};
use crate::yaml::fields::{Field, Fields};
use crate::yaml::problem::Problems;

/// Expressions and schemas by their text.
#[derive(Default)]
pub(super) struct ParseCache {
    /// The types of the schemas.
    pub types: TypeReader,
    expressions: HashMap<String, Result<Parsed, ExpressionProblem>>,
    expressions_bytes: usize,
    schemas: HashMap<(String, bool), Judged>,
    /// The work that the schemas may still take.
    allowance: Allowance,
}

/// The problems and warnings of a schema.
#[derive(Clone)]
struct Judged {
    problems: Vec<SchemaProblem>,
    warnings: Vec<SchemaProblem>,
}

impl ParseCache {
    pub fn parsed(&mut self, source: &str) -> Result<Parsed, ExpressionProblem> {
        if let Some(parsed) = self.expressions.get(source) {
            return parsed.clone();
        }
        // A repetition is free, since only parsing is expensive.
        self.expressions_bytes += source.len();
        if self.expressions_bytes > MAX_EXPRESSIONS_BYTES {
            let message = format!(
                "the expressions of a template have at most {MAX_EXPRESSIONS_BYTES} bytes in all, without repetitions"
            );
            return Err(ExpressionProblem {
                line: 1,
                column: 1,
                message,
            });
        }
        let parsed = Parsed::of(source);
        self.expressions.insert(source.to_owned(), parsed.clone());
        parsed
    }

    /// The condition of a field, a string or a boolean; problems are added at their place.
    pub fn condition(
        &mut self,
        field: &Field<'_>,
        scope: &Scope<'_>,
        problems: &mut Problems,
    ) -> Option<Expression> {
        let source = field.condition(problems)?;
        match self
            .parsed(&source)
            .and_then(|parsed| parsed.condition(scope))
        {
            Ok(expression) => Some(expression),
            Err(problem) => {
                problems.add_inside(field.node.pos, &field.path, problem);
                None
            }
        }
    }

    /// A JSON Schema; each of its problems and warnings is added at the place in the YAML to which
    /// its JSON pointer leads.
    pub fn schema(
        &mut self,
        field: &Field<'_>,
        of_context: bool,
        problems: &mut Problems,
    ) -> Option<Value> {
        let is_map = Fields::of(
            field.node,
            &field.path,
            "a mapping (a JSON Schema)",
            problems,
        )
        .is_some();
        // A broken part is null in the JSON form, and would cause a second problem.
        if !is_map || field.node.is_broken() {
            return None;
        }
        let schema = field.node.to_json();
        let Judged {
            problems: found,
            warnings,
        } = self.judged(&schema, of_context);
        for problem in found {
            let (pos, path) = field.node.locate(&problem.pointer, &field.path);
            problems.add(pos, path, &problem.message);
        }
        for warning in warnings {
            let (pos, path) = field.node.locate(&warning.pointer, &field.path);
            problems.warn(pos, path, &warning.message);
        }
        Some(schema)
    }

    fn judged(&mut self, schema: &Value, of_context: bool) -> Judged {
        // A result may be of any type, so the same text is judged apart for a context.
        let key = (schema.to_string(), of_context);
        if let Some(known) = self.schemas.get(&key) {
            return known.clone();
        }
        let compiled = ContextSchema::compile_within(schema, of_context, &mut self.allowance);
        let judged = match compiled {
            Ok(compiled) => Judged {
                problems: Vec::new(),
                warnings: compiled.warnings().to_vec(),
            },
            Err(problems) => Judged {
                problems,
                warnings: Vec::new(),
            },
        };
        self.schemas.insert(key, judged.clone());
        judged
    }
}
