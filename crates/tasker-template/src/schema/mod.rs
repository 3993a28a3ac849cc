//! The contract of a task's context: a JSON Schema, compiled once, that fills in defaults and
//! reports each violation.
//!
//! A schema comes from a template and a context from a client, so neither is trusted: the compiler
//! fetches nothing, patterns match in linear time, and a schema whose validation could be too
//! expensive is refused when the template is registered.

mod cost;
mod defaults;
mod identity;
mod keywords;
mod message;
mod meter;
mod number;
mod pattern;
mod pointer;
mod reference;
mod splice;
mod survey;
#[cfg(test)]
mod tests;
mod walk;

use jsonschema::{Draft, PatternOptions, Registry, Resource, ValidationOptions, Validator};
use serde_json::{Map, Value, json};

use crate::budget::{Budget, TooCostly};
use defaults::{FillError, Filler};
use meter::Meter;
pub(crate) use reference::{Anchors, REFERENCES};
use survey::Survey;
use walk::Question;

/// The most violations or schema problems in one list.
pub const MAX_VIOLATIONS: usize = 100;
/// The most `pattern`s and `patternProperties` in one schema.
pub const MAX_PATTERNS: usize = 200;
/// Largest compiled size of one pattern, in bytes.
const MAX_PATTERN_BYTES: usize = 1024 * 1024;
/// Bound of the search for violations: for each step that the validity check took,
/// `ERRORS_PER_STEP` steps, and `ERRORS` more.
const ERRORS_PER_STEP: u64 = 64;
const ERRORS: u64 = 20_000;
/// URI of the schema while its defaults are checked against parts of it.
const SELF_URI: &str = "urn:tasker:context-schema";

/// One problem of a schema.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SchemaProblem {
    /// JSON pointer into the schema.
    pub pointer: String,
    /// The problem and the expected form.
    pub message: String,
}

/// One violation of a schema by a context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// JSON pointer into the context; for a missing or a superfluous property, the pointer of its
    /// object.
    pub pointer: String,
    /// The problem, in at most about 200 characters.
    pub message: String,
}

/// Why a document was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Misfit {
    /// The document violates the schema: one violation per error, at most [`MAX_VIOLATIONS`].
    Violations(Vec<Violation>),
    /// Judging the document would take more steps than the budget has left.
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
    meter: Meter,
}

impl ContextSchema {
    /// Compiles a schema of draft 4 to 2020-12, which is the default; `$schema` names another.
    ///
    /// The validator asserts the standard's formats; others cause warnings. The compiler refuses
    /// parts that would be ignored or dangerous: unknown keywords, references out of the schema,
    /// patterns with look-around or back references, recursion whose cost explodes, and defaults
    /// that do not fit.
    ///
    /// # Errors
    /// All the problems that can be found at once, at most [`MAX_VIOLATIONS`].
    pub fn compile(schema: &Value) -> Result<Self, Vec<SchemaProblem>> {
        Self::compile_within(schema, true, &mut Allowance::default())
    }

    /// Compiles the schema of a step's result, which may be of any type.
    ///
    /// # Errors
    /// As for [`Self::compile`].
    pub fn compile_result(schema: &Value) -> Result<Self, Vec<SchemaProblem>> {
        Self::compile_within(schema, false, &mut Allowance::default())
    }

    /// Compiles the schema of a context or of a result at the expense of `allowance`.
    pub(crate) fn compile_within(
        schema: &Value,
        of_context: bool,
        allowance: &mut Allowance,
    ) -> Result<Self, Vec<SchemaProblem>> {
        // Before all pointers are made.
        if !pointer::are_bounded(schema) {
            return Err(vec![long_pointers()]);
        }
        let draft = Draft::default().detect(schema);
        // Without a draft no keyword has a meaning, so this problem is returned alone.
        if draft == Draft::Unknown {
            return Err(vec![unknown_draft()]);
        }
        // First of all: every later step addresses parts by their pointer from the top, which an
        // inner `$id` would redefine.
        let Some(schema) = identity::flatten(schema, draft) else {
            return Err(vec![long_uris()]);
        };
        let schema = &*schema;
        let mut problems = metaschema_problems(schema);
        if of_context && !survey::accepts_objects(schema) {
            let message =
                "a context is a JSON object, so this schema accepts none; expected object";
            problems.push(SchemaProblem {
                pointer: "/type".into(),
                message: message.into(),
            });
        }
        let survey = Survey::of(schema, draft, allowance, &mut problems);
        // The cost is checked before the validator is built: its bounds keep the build within the
        // stack, too.
        cost::check(&survey, &mut problems);
        finish(problems)?;
        let validator = options()
            .build(schema)
            .map_err(|error| vec![message::schema_problem(&error)])?;
        let meter = Meter::of(schema, &survey);
        let compiled = ContextSchema {
            schema: schema.clone(),
            validator,
            survey,
            meter,
        };
        // Last: filling and compiling the defaults is safe only within the bounds that were checked
        // above.
        finish(compiled.default_problems(&allowance.budget))?;
        Ok(compiled)
    }

    /// Completes and validates a context: `default`s of `properties` are added where the property
    /// is missing, also in nested objects, in array items, and through `allOf` and references; then
    /// the whole context is validated.
    ///
    /// `context` is the parsed `text`, and is completed in place. Returns `None` if no default was
    /// added, so that the client's own text can be stored, and otherwise that text with the
    /// additions inserted: the client's own part stays byte for byte.
    ///
    /// # Errors
    /// The violations, or that judging takes more steps than the budget has left.
    pub fn apply(
        &self,
        text: &str,
        context: &mut Value,
        budget: &Budget,
    ) -> Result<Option<String>, Misfit> {
        let whole = |message: String| {
            Misfit::Violations(vec![Violation {
                pointer: String::new(),
                message,
            }])
        };
        if !context.is_object() {
            return Err(whole("expected a JSON object".into()));
        }
        let added = self
            .filler(budget)
            .fill("", context)
            .map_err(|error| match error {
                FillError::TooCostly(error) => {
                    Misfit::TooCostly(error.of(|| "the schema's defaults".into()))
                }
                error => whole(error.to_string()),
            })?;
        // After the defaults: a default may supply a required property, and must fit the client's
        // own part.
        self.check(context, budget)?;
        // Spliced last, so that a refused context costs no copy of its text.
        Ok(added.then(|| splice::splice(text, context)))
    }

    /// Validates a document of any type without completing it.
    ///
    /// # Errors
    /// As for [`Self::apply`].
    pub fn check(&self, document: &Value, budget: &Budget) -> Result<(), Misfit> {
        // The walk spends the whole cost first, since the validator cannot be interrupted.
        walk::count(&self.meter, 0, document, Question::Fits, budget)
            .map_err(|error| error.of(|| "the document against its schema".into()))?;
        if self.validator.is_valid(document) {
            return Ok(());
        }
        Err(Misfit::Violations(self.violations(document, budget)))
    }

    /// Parts that generators write and the validator does not check: formats outside the standard,
    /// and keywords of `OpenAPI`.
    pub fn warnings(&self) -> &[SchemaProblem] {
        &self.survey.warnings
    }

    /// The violations of an invalid document, as far as the steps that are left allow.
    fn violations(&self, document: &Value, budget: &Budget) -> Vec<Violation> {
        // An invalid document must not cost much more than a valid one: the search gets a multiple
        // of the steps of the check, and at most the rest of the budget.
        let afforded = budget.left().min(
            budget
                .spent()
                .saturating_mul(ERRORS_PER_STEP)
                .saturating_add(ERRORS),
        );
        // A budget of its own counts the walk, so that a search that is too expensive takes nothing
        // off the real one.
        let affords = |question| {
            let trial = Budget::of(afforded.min(budget.left()));
            walk::count(&self.meter, 0, document, question, &trial).is_ok()
                && budget.spend(trial.spent()).is_ok()
        };
        // From the most informative answer to the cheapest: all errors, the first one, the bare
        // fact.
        if affords(Question::Errors { copies: false }) {
            return listed(self.validator.iter_errors(document));
        }
        let whole = |message: &str| Violation {
            pointer: String::new(),
            message: message.into(),
        };
        if affords(Question::FirstError)
            && let Err(first) = self.validator.validate(document)
        {
            let more =
                "there may be more violations; their search would exceed the budget of one input";
            return vec![message::violation(&first), whole(more)];
        }
        vec![whole(
            "the document does not match its schema; the search for the place would exceed the budget of one input",
        )]
    }

    fn filler<'s>(&'s self, budget: &'s Budget) -> Filler<'s> {
        Filler::new(&self.schema, &self.survey, budget)
    }

    /// The defaults that do not fit the schema around them, after the defaults inside each were
    /// applied.
    fn default_problems(&self, budget: &Budget) -> Vec<SchemaProblem> {
        if self.survey.defaults.is_empty() {
            return Vec::new();
        }
        let validator = match self.default_validator() {
            Ok(validator) => validator,
            Err(message) => {
                return vec![SchemaProblem {
                    pointer: String::new(),
                    message,
                }];
            }
        };
        let mut problems = Vec::new();
        for place in &self.survey.defaults {
            let Err(misfit) = self.check_default(*place, &validator, budget) else {
                continue;
            };
            let pointer = format!("{}/default", self.survey.places[*place].pointer);
            let (message, is_last) = match misfit {
                DefaultMisfit::Refused(message) => (message, false),
                DefaultMisfit::TooCostly(error) => (too_costly_defaults(&error), true),
            };
            problems.push(SchemaProblem { pointer, message });
            // The budget is spent, so the rest stays unchecked.
            if is_last {
                break;
            }
        }
        problems
    }

    /// One validator for all defaults: of an object that has each default under the number of its
    /// place. A validator for each of them would compile the schema as often.
    fn default_validator(&self) -> Result<Validator, String> {
        let resource = Resource::from_contents(self.schema.clone());
        let registry = Registry::new()
            .add(SELF_URI, resource)
            .and_then(jsonschema::RegistryBuilder::prepare)
            .map_err(|error| error.to_string())?;
        let part = |place: &usize| {
            // A reference into the whole schema: the part alone would lose the definitions that it
            // refers to.
            let fragment = pointer::to_fragment(&self.survey.places[*place].pointer);
            let reference = json!({ "$ref": format!("{SELF_URI}#{fragment}") });
            (place.to_string(), reference)
        };
        let parts: Map<String, Value> = self.survey.defaults.iter().map(part).collect();
        // The wrapper has no `$schema` from which the draft could be detected.
        options()
            .with_draft(self.survey.draft)
            .with_registry(&registry)
            .build(&json!({ "properties": parts }))
            .map_err(|error| message::schema_problem(&error).message)
    }

    fn check_default(
        &self,
        place: usize,
        validator: &Validator,
        budget: &Budget,
    ) -> Result<(), DefaultMisfit> {
        let owner = &self.survey.places[place].pointer;
        let Some(default) = self.schema.pointer(owner).and_then(|s| s.get("default")) else {
            return Ok(());
        };
        // Two copies: into the object that is checked.
        budget.spend(2 * meter::comparison(default))?;
        let mut default = default.clone();
        self.filler(budget)
            .fill(owner, &mut default)
            .map_err(|error| match error {
                FillError::TooCostly(error) => DefaultMisfit::TooCostly(error),
                error => DefaultMisfit::Refused(error.to_string()),
            })?;
        walk::count(&self.meter, place, &default, Question::Fits, budget)?;
        let wrapped = Value::Object(Map::from_iter([(place.to_string(), default)]));
        if validator.is_valid(&wrapped) {
            return Ok(());
        }
        let default = &wrapped[place.to_string()];
        let why = match walk::count(&self.meter, place, default, Question::FirstError, budget) {
            Ok(()) => validator.validate(&wrapped).err(),
            Err(_) => None,
        };
        Err(DefaultMisfit::Refused(match why {
            Some(error) => format!(
                "the default does not match: {}",
                message::violation(&error).message
            ),
            None => "the default does not match its schema".into(),
        }))
    }
}

/// Why a default was refused.
enum DefaultMisfit {
    Refused(String),
    TooCostly(TooCostly),
}

impl From<TooCostly> for DefaultMisfit {
    fn from(error: TooCostly) -> Self {
        DefaultMisfit::TooCostly(error)
    }
}

fn too_costly_defaults(
    TooCostly {
        needed, allowed, ..
    }: &TooCostly,
) -> String {
    format!(
        "checking the defaults takes at least {needed} steps, but all defaults of a template have {allowed}; \
         expected smaller defaults or a simpler schema"
    )
}

/// The work that compiling the schemas of one template may take.
#[derive(Debug)]
pub(crate) struct Allowance {
    /// The number of patterns that are left.
    patterns: usize,
    /// Steps to check the defaults, as many as one input has: a default is judged like an input.
    budget: Budget,
}

impl Default for Allowance {
    fn default() -> Self {
        Allowance {
            patterns: MAX_PATTERNS,
            budget: Budget::new(),
        }
    }
}

/// The schema with each reference rewritten as `#/...`, even where parts of it have their own
/// `$id`; `None` for a schema that cannot be compiled.
pub(crate) fn flattened(schema: &Value) -> Option<std::borrow::Cow<'_, Value>> {
    match Draft::default().detect(schema) {
        Draft::Unknown => None,
        draft if pointer::are_bounded(schema) => identity::flatten(schema, draft),
        _ => None,
    }
}

/// At most [`MAX_VIOLATIONS`] violations; the last one states how many are not listed.
fn listed<'e>(mut errors: impl Iterator<Item = jsonschema::ValidationError<'e>>) -> Vec<Violation> {
    let mut violations: Vec<Violation> = errors
        .by_ref()
        .take(MAX_VIOLATIONS)
        .map(|e| message::violation(&e))
        .collect();
    // The count runs the search to its end, for which `violations` has paid.
    let hidden = errors.count();
    if let Some(last) = violations.last_mut().filter(|_| hidden > 0) {
        *last = Violation {
            pointer: String::new(),
            message: format!("{} more violations are not listed", hidden + 1),
        };
    }
    violations
}

/// The validator's options, the same for each use: offline, with asserted formats and bounded
/// patterns.
fn options<'r>() -> ValidationOptions<'r> {
    // The engine without back references matches in linear time; both limits bound its memory.
    let patterns = PatternOptions::regex()
        .size_limit(MAX_PATTERN_BYTES)
        .dfa_size_limit(MAX_PATTERN_BYTES);
    // The survey warns of unknown formats; an error here would refuse schemas that generators
    // write.
    jsonschema::options()
        .offline()
        .should_validate_formats(true)
        .should_ignore_unknown_formats(true)
        .with_pattern_options(patterns)
}

fn unknown_draft() -> SchemaProblem {
    let message = "expected the URI of a JSON Schema draft, such as https://json-schema.org/draft/2020-12/schema";
    SchemaProblem {
        pointer: "/$schema".into(),
        message: message.into(),
    }
}

fn long_pointers() -> SchemaProblem {
    SchemaProblem {
        pointer: String::new(),
        message: format!(
            "the names in the schema are too long for its depth: its JSON pointers have more than {} bytes in all",
            pointer::MAX_POINTER_BYTES
        ),
    }
}

fn long_uris() -> SchemaProblem {
    SchemaProblem {
        pointer: String::new(),
        message: format!(
            "an `$id`, resolved against those around it, has more than {} bytes, or the references by it are too long",
            identity::MAX_URI_BYTES
        ),
    }
}

fn metaschema_problems(schema: &Value) -> Vec<SchemaProblem> {
    match jsonschema::meta::validator_for(schema) {
        Ok(validator) => validator
            .iter_errors(schema)
            .map(|error| message::schema_problem(&error))
            .collect(),
        Err(error) => vec![message::schema_problem(&error)],
    }
}

/// Sorts the problems and removes duplicates: the metaschema reports some errors once per
/// vocabulary.
fn finish(mut problems: Vec<SchemaProblem>) -> Result<(), Vec<SchemaProblem>> {
    problems.sort();
    problems.dedup();
    problems.truncate(MAX_VIOLATIONS);
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems)
    }
}
