//! Conditions and values that a template computes from a task: expressions in CEL, the Common
//! Expression Language.
//!
//! An expression comes from a template and its values from clients and handlers, so neither is
//! trusted. Names and types are checked once, when the template is registered; the cost of an
//! evaluation is counted before it begins.

mod bounds;
mod check;
mod hints;
pub(crate) mod lexeme;
mod macros;
mod parse;
mod reads;
mod schema_types;
#[cfg(test)]
mod tests;
mod types;
mod values;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

use cel::common::ast::{EntryExpr, IdedExpr, MapExpr};
use cel::{Env, ExecutionError};
use serde_json::Value;

pub(crate) use parse::{Parsed, line_and_column};
pub(crate) use schema_types::TypeReader;
pub use types::Type;

use crate::budget::{Budget, TooCostly};
use crate::text::{cut, shorten};
use reads::Reads;
use types::Kinds;

/// Longest expression, in bytes.
pub const MAX_EXPRESSION_BYTES: usize = 2_048;
/// Largest nesting depth of an expression's parts.
pub const MAX_EXPRESSION_DEPTH: usize = 32;
/// The most macros (`all`, `exists`, `exists_one`, `map`, `filter`) in one expression.
pub const MAX_MACROS: usize = 16;
/// Largest nesting depth of macros.
pub const MAX_MACRO_DEPTH: usize = 3;
/// Budget steps per step of an evaluation. An evaluation step is one part of the expression, once
/// for each item of a macro's list, or one copied value, or 16 bytes of text.
const STEPS: u64 = 8;
/// 2^53: from here on, a number with a fraction or an exponent cannot represent each integer.
const MAX_EXACT_DOUBLE: f64 = 9_007_199_254_740_992.0;
/// The language without its extensions. The check refuses those standard functions that JSON values
/// do not need.
static ENV: LazyLock<Arc<Env>> =
    LazyLock::new(|| Arc::new(Env::stdlib().with_optional_support(false)));

/// The problem of an expression, with its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ExpressionProblem {
    /// Both from 1; columns count characters.
    pub line: u32,
    pub column: u32,
    pub message: String,
}

/// The variables of an expression, with their types.
#[derive(Clone, Copy)]
pub struct Scope<'s> {
    /// The task's context.
    pub context: &'s Type,
    /// `None` if the expression is evaluated before any step has run.
    pub results: Option<&'s ResultTypes<'s>>,
}

/// Returns the type of the result of the step with this name, or why there is none.
pub type ResultTypes<'s> = dyn Fn(&str) -> Result<Type, String> + 's;

impl Scope<'_> {
    /// The fields of the variable `task`.
    pub const TASK_FIELDS: [&'static str; 5] = [
        "correlation_id",
        "namespace",
        "priority",
        "task_name",
        "version",
    ];

    fn task_fields(&self) -> BTreeMap<String, Type> {
        let kinds = |field| match field {
            "priority" => Kinds::INT,
            _ => Kinds::TEXT,
        };
        Self::TASK_FIELDS
            .into_iter()
            .map(|field| (field.to_owned(), Type::of(kinds(field))))
            .collect()
    }

    fn variables(&self) -> impl Iterator<Item = &'static str> + use<> {
        ["context", "task"]
            .into_iter()
            .chain(self.results.map(|_| "results"))
    }
}

/// The values of the variables: parsed documents that are shared, and the budget that all
/// evaluations for one input share.
pub struct Values<'v> {
    context: &'v Value,
    task: &'v Value,
    results: Option<&'v StepResults<'v>>,
    budget: &'v Budget,
}

/// Each ancestor's result by step name; null for a skipped step.
pub type StepResults<'v> = BTreeMap<&'v str, &'v Value>;

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvaluationError {
    /// A missing field or a value of the wrong type, in words.
    #[error("{0}")]
    Failed(String),
    /// The evaluation would take more steps than the budget has left.
    #[error("{0}")]
    TooCostly(#[from] TooCostly),
}

impl EvaluationError {
    /// The same error with a place in front of its message.
    #[must_use]
    pub(crate) fn at(self, place: &str) -> Self {
        match self {
            EvaluationError::Failed(why) => {
                EvaluationError::Failed(cut(&format!("{place}: {why}")))
            }
            EvaluationError::TooCostly(error) => {
                let what = cut(&format!("{place}: {}", error.what));
                EvaluationError::TooCostly(TooCostly { what, ..error })
            }
        }
    }
}

impl From<String> for EvaluationError {
    fn from(why: String) -> Self {
        EvaluationError::Failed(why)
    }
}

/// The value of a variable.
#[derive(Clone, Copy)]
enum Variable<'v> {
    Document(&'v Value),
    Results(&'v StepResults<'v>),
}

impl<'v> Values<'v> {
    /// Values before any step has run. `task` has the fields `correlation_id`, `namespace`,
    /// `priority`, `task_name` and `version`.
    pub fn of_task(context: &'v Value, task: &'v Value, budget: &'v Budget) -> Self {
        Values {
            context,
            task,
            results: None,
            budget,
        }
    }

    /// Values for a step, with its ancestors' results.
    pub fn of_step(
        context: &'v Value,
        task: &'v Value,
        results: &'v StepResults<'v>,
        budget: &'v Budget,
    ) -> Self {
        Values {
            context,
            task,
            results: Some(results),
            budget,
        }
    }

    fn get(&self, variable: &str) -> Option<Variable<'v>> {
        match variable {
            "context" => Some(Variable::Document(self.context)),
            "task" => Some(Variable::Document(self.task)),
            "results" => self.results.map(Variable::Results),
            _ => None,
        }
    }
}

/// A checked expression. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Expression(Parsed);

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.source() == other.source()
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.source())
    }
}

#[cfg(test)]
impl Expression {
    /// Parses and checks an expression whose value may have any type.
    pub(crate) fn compile(
        source: &str,
        scope: &Scope<'_>,
    ) -> Result<Expression, ExpressionProblem> {
        Parsed::of(source)?.value(scope)
    }

    /// Parses and checks an expression that is true or false.
    pub(crate) fn condition(
        source: &str,
        scope: &Scope<'_>,
    ) -> Result<Expression, ExpressionProblem> {
        Parsed::of(source)?.condition(scope)
    }
}

impl Expression {
    /// The source text.
    pub fn source(&self) -> &str {
        &self.0.0.source
    }

    /// Whether the expression reads the variable `context`, `task` or `results`.
    pub fn reads(&self, variable: &str) -> bool {
        self.0.0.reads.parts.contains_key(variable)
    }

    /// Whether the expression reads the result of this step.
    pub fn reads_result(&self, step: &str) -> bool {
        let results = self.0.0.reads.parts.get("results");
        results.is_some_and(|results| results.whole || results.parts.contains_key(step))
    }

    /// Whether the condition is true.
    ///
    /// # Errors
    /// A missing field, a value of the wrong type, or a result that is neither true nor false; or
    /// the evaluation takes more steps than the budget has left.
    pub fn holds(&self, values: &Values<'_>) -> Result<bool, EvaluationError> {
        match self.value(values)? {
            Value::Bool(holds) => Ok(holds),
            other => {
                Err(format!("expected true or false, found {}", cut(&other.to_string())).into())
            }
        }
    }

    /// The value of the expression.
    ///
    /// # Errors
    /// As [`Expression::holds`].
    pub fn value(&self, values: &Values<'_>) -> Result<Value, EvaluationError> {
        let tree = &*self.0.0;
        // A bare path needs no evaluator, and may lead to a number that CEL cannot hold.
        if let Some(path) = &tree.path {
            return self.plain(path, values);
        }
        let mut context = cel::Context::with_env(Arc::clone(&ENV));
        for (name, reads) in &tree.reads.parts {
            // The names of macro variables are among the reads and have no value here.
            if let Some(variable) = values.get(name) {
                // The conversion is paid for before it copies anything.
                self.spend(values, bounds::size(variable, reads))?;
                context.add_variable_from_value(name, values::to_cel(variable, name, reads)?);
            }
        }
        // The whole cost is spent before the evaluation, since the evaluator cannot be interrupted.
        self.spend(values, bounds::cost(&tree.expr, &|name| values.get(name)))?;
        let value = cel::Value::resolve(&tree.expr, &context)
            .map_err(|error| self.explain(&error, values))?;
        Ok(values::to_json(&value)?)
    }

    fn spend(&self, values: &Values<'_>, steps: u64) -> Result<(), TooCostly> {
        values
            .budget
            .spend(steps.saturating_mul(STEPS))
            .map_err(|error| error.of(|| format!("`{}`", shorten(self.source()))))
    }

    /// The value at `a.b.c`, copied without an evaluation.
    fn plain(&self, path: &[String], values: &Values<'_>) -> Result<Value, EvaluationError> {
        let [root, fields @ ..] = path else {
            return Ok(Value::Null);
        };
        let root = values.get(root).unwrap_or(Variable::Document(&Value::Null));
        // After this check each field exists; an index into a missing one would silently give null.
        if let Some((_, _, why)) = reads::missing(path, root) {
            return Err(cut(&why).into());
        }
        let value = match (root, fields) {
            (Variable::Document(value), fields) => fields
                .iter()
                .fold(value, |value, field| &value[field.as_str()]),
            (Variable::Results(results), [step, fields @ ..]) => {
                let result = results.get(step.as_str()).copied().unwrap_or(&Value::Null);
                fields
                    .iter()
                    .fold(result, |value, field| &value[field.as_str()])
            }
            (Variable::Results(_), []) => &Value::Null,
        };
        // Before the copy, since the value may be as large as the document.
        self.spend(
            values,
            bounds::size(
                Variable::Document(value),
                &Reads {
                    whole: true,
                    ..Reads::default()
                },
            ),
        )?;
        Ok(value.clone())
    }

    /// The error in words, with the name of the missing field where the cause is one.
    fn explain(&self, error: &ExecutionError, values: &Values<'_>) -> String {
        // The evaluator names a key but not its place, so the first read path that is missing in
        // the values gives the reason. A field of a value that is no map is an overload error.
        let wanted = match error {
            ExecutionError::NoSuchKey(name) => Some(name.as_str()),
            ExecutionError::NoSuchOverload(_) => None,
            _ => return cut(&error.to_string()),
        };
        let mut paths = Vec::new();
        self.0.0.reads.paths(&mut Vec::new(), &mut paths);
        let found = paths
            .iter()
            .filter_map(|path| reads::missing(path, values.get(path.first()?)?));
        let reason = found.filter(|(name, is_map, _)| match wanted {
            Some(wanted) => *is_map && name == wanted,
            None => !is_map,
        });
        match (reason.map(|(_, _, why)| why).next(), wanted) {
            (Some(why), _) => cut(&why),
            (None, Some(name)) => cut(&format!("there is no field `{name}`")),
            (None, None) => cut(&error.to_string()),
        }
    }
}

/// The keys and values of a map.
fn entries(map: &MapExpr) -> impl Iterator<Item = (&IdedExpr, &IdedExpr)> {
    map.entries.iter().filter_map(|entry| match &entry.expr {
        EntryExpr::MapEntry(entry) => Some((&entry.key, &entry.value)),
        EntryExpr::StructField(_) => None,
    })
}
