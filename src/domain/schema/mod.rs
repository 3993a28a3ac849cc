//! The contract of a task's context: a JSON Schema, compiled once, that fills in defaults and names every violation.
//!
//! A schema comes from a template and a context from a client, so neither is trusted: nothing is fetched, patterns match
//! in linear time, and what would cost more than it is worth is refused when the template is registered.

mod cost;
mod defaults;
mod keywords;
mod message;
mod pointer;
mod splice;
mod survey;
#[cfg(test)]
mod tests;

use jsonschema::{Draft, PatternOptions, Registry, Resource, ValidationOptions, Validator};
use serde_json::{Value, json};

use crate::domain::budget::{Budget, TooCostly};
use defaults::Filler;
use survey::Survey;

/// How many violations or schema problems are listed at most.
pub const MAX_VIOLATIONS: usize = 100;
/// How many `pattern`s and `patternProperties` a schema may have.
pub const MAX_PATTERNS: usize = 200;
/// Largest compiled size of one pattern, in bytes.
const MAX_PATTERN_BYTES: usize = 1024 * 1024;
/// Name under which parts of a schema refer to each other while its defaults are checked.
const SELF_URI: &str = "urn:tasker:context-schema";

/// One thing that is wrong with a schema.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SchemaProblem {
    /// JSON pointer into the schema.
    pub pointer: String,
    /// What is wrong and what was expected.
    pub message: String,
}

/// One thing that is wrong with a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// JSON pointer into the context; for a missing or a superfluous property, of the object it is missing or found in.
    pub pointer: String,
    /// What is wrong; never longer than about 200 characters.
    pub message: String,
}

/// Why a document was not accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misfit {
    /// It does not fit: one violation per error, at most [`MAX_VIOLATIONS`].
    Violations(Vec<Violation>),
    /// Judging it would take more steps than are left.
    TooCostly(TooCostly),
}

impl From<TooCostly> for Misfit {
    fn from(error: TooCostly) -> Self {
        Misfit::TooCostly(error)
    }
}

/// A compiled schema. Expensive to make and cheap to share.
#[derive(Debug)]
pub struct ContextSchema {
    schema: Value,
    validator: Validator,
    survey: Survey,
}

impl ContextSchema {
    /// Compiles a schema of draft 4 to 2020-12, which is the default; `$schema` names another.
    ///
    /// Formats are asserted. Refused, because they would be ignored or be dangerous: keywords and formats nobody knows,
    /// references out of the schema, patterns with look-around or back references, recursion whose cost explodes, and
    /// defaults that do not fit.
    ///
    /// # Errors
    /// All the problems that can be found at once, at most [`MAX_VIOLATIONS`].
    pub fn compile(schema: &Value) -> Result<Self, Vec<SchemaProblem>> {
        Self::compile_for(schema, true)
    }

    /// Compiles the schema of a step's result, which may be of any type.
    ///
    /// # Errors
    /// As for [`Self::compile`].
    pub fn compile_result(schema: &Value) -> Result<Self, Vec<SchemaProblem>> {
        Self::compile_for(schema, false)
    }

    fn compile_for(schema: &Value, of_context: bool) -> Result<Self, Vec<SchemaProblem>> {
        let draft = Draft::default().detect(schema);
        if draft == Draft::Unknown {
            return Err(vec![unknown_draft()]);
        }
        let mut problems = metaschema_problems(schema);
        if of_context && !survey::accepts_objects(schema) {
            let message = "a context is a JSON object, so this schema accepts none; expected object";
            problems.push(SchemaProblem { pointer: "/type".into(), message: message.into() });
        }
        let survey = Survey::of(schema, draft, &mut problems);
        cost::check(&survey, &mut problems);
        finish(problems)?;
        let validator = options().build(schema).map_err(|error| vec![message::schema_problem(&error)])?;
        let compiled = ContextSchema { schema: schema.clone(), validator, survey };
        finish(compiled.default_problems())?;
        Ok(compiled)
    }

    /// How many patterns it has.
    pub fn patterns(&self) -> usize {
        self.survey.patterns
    }

    /// Checks a context and completes it: `default`s of `properties` are added where the property is missing, also in
    /// nested objects, in array items, and through `allOf` and references; then all of it is validated.
    ///
    /// `context` is the value of `text`, and is completed. Returns None when nothing was added, so that the client's own text
    /// can be stored, and otherwise that text with the additions written into it: what the client sent stays byte for byte.
    ///
    /// # Errors
    /// What does not fit, or that judging it takes more steps than are left.
    pub fn apply(&self, text: &str, context: &mut Value, budget: &Budget) -> Result<Option<String>, Misfit> {
        let whole = |message: String| Misfit::Violations(vec![Violation { pointer: String::new(), message }]);
        if !context.is_object() {
            return Err(whole("expected a JSON object".into()));
        }
        let added = self.filler().fill("", context).map_err(|error| whole(error.to_string()))?;
        self.check(context, budget)?;
        Ok(added.then(|| splice::splice(text, context)))
    }

    /// Checks a document of any type, and adds nothing to it.
    ///
    /// # Errors
    /// As for [`Self::apply`].
    pub fn check(&self, document: &Value, budget: &Budget) -> Result<(), Misfit> {
        budget.spend(1)?;
        let violations = self.violations(document);
        if violations.is_empty() { Ok(()) } else { Err(Misfit::Violations(violations)) }
    }

    /// The most steps that judging any document of this many bytes can take: found without looking at the document.
    /// [`u64::MAX`] when no bound is known.
    pub fn cost_bound(&self, _bytes: usize) -> u64 {
        u64::MAX
    }

    /// What is unusual in the schema but not wrong.
    pub fn warnings(&self) -> &[SchemaProblem] {
        &[]
    }

    fn violations(&self, context: &Value) -> Vec<Violation> {
        if self.validator.is_valid(context) {
            return Vec::new(); // The common case, without collecting anything.
        }
        let mut errors = self.validator.iter_errors(context);
        let mut violations: Vec<Violation> =
            errors.by_ref().take(MAX_VIOLATIONS).map(|e| message::violation(&e)).collect();
        let hidden = errors.count();
        if let Some(last) = violations.last_mut().filter(|_| hidden > 0) {
            *last =
                Violation { pointer: String::new(), message: format!("{} more violations are not listed", hidden + 1) };
        }
        violations
    }

    fn filler(&self) -> Filler<'_> {
        Filler::new(&self.schema, &self.survey)
    }

    /// Every default must fit the schema it stands in, after the defaults inside it were applied.
    fn default_problems(&self) -> Vec<SchemaProblem> {
        if self.survey.defaults.is_empty() {
            return Vec::new();
        }
        let resource = Resource::from_contents(self.schema.clone());
        let registry = Registry::new().add(SELF_URI, resource).and_then(jsonschema::RegistryBuilder::prepare);
        let registry = match registry {
            Ok(registry) => registry,
            Err(error) => {
                return vec![SchemaProblem { pointer: String::new(), message: error.to_string() }];
            }
        };
        self.survey.defaults.iter().filter_map(|owner| self.default_problem(owner, &registry)).collect()
    }

    fn default_problem(&self, owner: &str, registry: &Registry<'_>) -> Option<SchemaProblem> {
        let problem = |message: String| Some(SchemaProblem { pointer: format!("{owner}/default"), message });
        let mut default = self.schema.pointer(owner)?.get("default")?.clone();
        if let Err(error) = self.filler().fill(owner, &mut default) {
            return problem(error.to_string());
        }
        let part = json!({ "$ref": format!("{SELF_URI}#{}", pointer::to_fragment(owner)) });
        match options().with_draft(self.survey.draft).with_registry(registry).build(&part) {
            Ok(validator) => match validator.validate(&default) {
                Ok(()) => None,
                Err(error) => problem(format!("the default does not fit: {}", message::violation(&error).message)),
            },
            Err(error) => problem(message::schema_problem(&error).message),
        }
    }
}

/// One place for what schemas may do here.
fn options<'r>() -> ValidationOptions<'r> {
    let patterns = PatternOptions::regex().size_limit(MAX_PATTERN_BYTES).dfa_size_limit(MAX_PATTERN_BYTES);
    jsonschema::options()
        .offline()
        .should_validate_formats(true)
        .should_ignore_unknown_formats(false)
        .with_pattern_options(patterns)
}

fn unknown_draft() -> SchemaProblem {
    let message = "expected the URI of a JSON Schema draft, such as https://json-schema.org/draft/2020-12/schema";
    SchemaProblem { pointer: "/$schema".into(), message: message.into() }
}

fn metaschema_problems(schema: &Value) -> Vec<SchemaProblem> {
    match jsonschema::meta::validator_for(schema) {
        Ok(validator) => validator.iter_errors(schema).map(|error| message::schema_problem(&error)).collect(),
        Err(error) => vec![message::schema_problem(&error)],
    }
}

/// The metaschema reports some errors once per vocabulary.
fn finish(mut problems: Vec<SchemaProblem>) -> Result<(), Vec<SchemaProblem>> {
    problems.sort();
    problems.dedup();
    problems.truncate(MAX_VIOLATIONS);
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}
