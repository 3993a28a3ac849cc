//! The workflow definition: a template, and its parser, which reads YAML and reports all problems
//! at once.

mod conditions;
mod environments;
mod fields;
mod graph;
mod inputs;
mod links;
mod mapping;
mod memory;
mod node;
mod overrides;
mod place;
mod planner;
mod problem;
mod rails;
mod read;
mod scalar;
mod step;
#[cfg(test)]
mod tests;
mod yaml;

use std::time::Duration;

use serde_json::{Map, Value};

pub use graph::Graph;
pub use overrides::Override;
pub use problem::{MAX_PROBLEMS, Problem};

pub use crate::domain::name::MAX_NAME_BYTES;

use crate::domain::expression::Expression;
use crate::domain::retry::Backoff;
use memory::Memory;
use node::Node;
use problem::{Names, Pos, Problems};

/// Largest YAML text of a template, in bytes.
pub const MAX_TEMPLATE_BYTES: usize = 256 * 1024;
/// Largest number of steps; a template has at least one.
pub const MAX_STEPS_PER_TEMPLATE: usize = 1_000;
/// Largest `handler_config`, in bytes of JSON.
pub const MAX_HANDLER_CONFIG_BYTES: usize = 64 * 1024;
/// Largest `annotations`, in bytes of JSON.
pub const MAX_ANNOTATIONS_BYTES: usize = 16 * 1024;
/// Largest `default_retry_limit`; the smallest is 1.
pub const MAX_RETRY_LIMIT: u32 = 100;
/// `default_retry_limit` of a step that specifies none.
pub const DEFAULT_RETRY_LIMIT: u32 = 3;
/// `timeout_seconds` of a step that specifies none.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);
/// Smallest `timeout_seconds`.
pub const MIN_TIMEOUT: Duration = Duration::from_millis(1);
/// Largest `timeout_seconds`: seven days.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Largest total of all distinct expressions, in bytes: parsing expressions takes longer than
/// reading the rest of a template.
pub const MAX_EXPRESSIONS_BYTES: usize = 64 * 1024;
/// Largest number of `overrides`.
pub const MAX_OVERRIDES: usize = 100;
/// Largest number of `environments`.
pub const MAX_ENVIRONMENTS: usize = 20;
/// Name of the step that a template with a `planner` has before all others.
pub const PLANNER: &str = "planner";
/// Namespace of a template that specifies none.
pub const DEFAULT_NAMESPACE: &str = "default";
/// Version of a template that specifies none.
pub const DEFAULT_VERSION: semver::Version = semver::Version::new(0, 1, 0);

/// One version of a workflow definition, validated.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    /// With `task_name` and `version` the template's identity. At most [`MAX_NAME_BYTES`].
    pub namespace: String,
    /// At most [`MAX_NAME_BYTES`].
    pub task_name: String,
    /// The newest version is the one of the highest precedence.
    pub version: semver::Version,
    /// For readers; empty when the template has none.
    pub description: String,
    /// JSON Schema of the context, which has been compiled once without a problem.
    pub schema: Option<Value>,
    /// Annotations with which each task of the template starts.
    pub annotations: Map<String, Value>,
    /// Changes to the tasks that meet a condition, in the order of application; at most
    /// [`MAX_OVERRIDES`].
    pub overrides: Vec<Override>,
    /// Whether the first step is a planner, which all others wait for.
    pub planner: bool,
    /// Time from a task's submit, or from its `not_before`, to its deadline: [`MIN_TIMEOUT`] to
    /// [`MAX_TIMEOUT`].
    pub timeout: Option<Duration>,
    /// In the order of the file; 1 to [`MAX_STEPS_PER_TEMPLATE`].
    pub steps: Vec<StepTemplate>,
}

/// One step of a template.
#[derive(Debug, Clone, PartialEq)]
pub struct StepTemplate {
    /// Unique in the template. At most [`MAX_NAME_BYTES`].
    pub name: String,
    /// For readers; empty when the step has none.
    pub description: String,
    /// The name under which workers register the code of the step (`handler_class`).
    pub handler: String,
    /// The downstream system that circuits and limits protect: `handler_config.service`, else a key
    /// of the Rails engine (`rails.rs`), else the handler's name.
    pub service: String,
    /// Indices into [`Template::steps`], sorted, unique, never forming a cycle.
    pub depends_on: Vec<usize>,
    /// The ancestors whose results the handler receives, sorted and unique; `None` for all.
    pub inputs: Option<Vec<usize>>,
    /// The most charged attempts of the step, 1 to [`MAX_RETRY_LIMIT`]; 1 when it is not retryable.
    pub retry_limit: u32,
    /// Whether a retryable error leads to another attempt.
    pub retryable: bool,
    /// Time-out of an attempt: [`MIN_TIMEOUT`] to [`MAX_TIMEOUT`].
    pub timeout: Duration,
    /// The delay between attempts.
    pub backoff: Backoff,
    /// The configuration that the handler receives, including `service` and `timeout_seconds`.
    pub handler_config: Map<String, Value>,
    /// `when`: the step is skipped when it is false.
    pub condition: Option<Expression>,
    /// JSON Schema of the result, which has been compiled once without a problem.
    pub result_schema: Option<Value>,
    /// Annotations with which each run of the step starts.
    pub annotations: Map<String, Value>,
}

/// The result of checking a text as a template.
#[derive(Debug, Clone)]
pub struct Checked {
    /// Set when there is no problem.
    pub template: Option<Template>,
    /// In order of position, at most [`MAX_PROBLEMS`]; if there are more, the last one states how
    /// many are not listed.
    pub problems: Vec<Problem>,
    /// Number of distinct problems found, including those that are not listed. Environments are
    /// checked until the list is full.
    pub problems_total: usize,
    /// Warnings for the author of a valid or invalid template, in order of position and at most
    /// [`MAX_PROBLEMS`] likewise.
    pub warnings: Vec<Problem>,
}

impl Template {
    /// Reads a template from untrusted YAML of at most [`MAX_TEMPLATE_BYTES`] for `environment`. An
    /// empty name, or one that the template does not mention, selects the template without an
    /// environment; all environments are checked in any case. A syntax error in the YAML ends the
    /// check at its position.
    pub fn check(yaml: &str, environment: &str) -> Checked {
        checked(yaml, environment, Names::New)
    }

    /// As [`Template::check`], without the warnings.
    ///
    /// # Errors
    /// The problems, as [`Checked::problems`].
    pub fn parse(yaml: &str, environment: &str) -> Result<Template, Vec<Problem>> {
        let Checked {
            template, problems, ..
        } = Template::check(yaml, environment);
        template.ok_or(problems)
    }

    /// As [`Template::parse`], for a stored template, whose names may be older than the grammar of
    /// names.
    ///
    /// # Errors
    /// The problems, as [`Checked::problems`].
    pub fn parse_stored(yaml: &str, environment: &str) -> Result<Template, Vec<Problem>> {
        let Checked {
            template, problems, ..
        } = checked(yaml, environment, Names::Stored);
        template.ok_or(problems)
    }
}

fn checked(yaml: &str, environment: &str, names: Names) -> Checked {
    let mut problems = Problems::reading(names);
    let template = if yaml.len() > MAX_TEMPLATE_BYTES {
        let message = format!(
            "the file has {} bytes, but a template has at most {MAX_TEMPLATE_BYTES}",
            yaml.len()
        );
        problems.add(Pos::START, "", message);
        None
    } else {
        let root = yaml::parse(yaml, &mut problems);
        root.and_then(|root| in_environment(&root, environment, &mut problems))
    };
    let problems_total = problems.len();
    let template = template.filter(|_| problems.is_empty());
    let (problems, warnings) = problems.into_sorted(yaml);
    Checked {
        template,
        problems,
        problems_total,
        warnings,
    }
}

fn in_environment(root: &Node, environment: &str, problems: &mut Problems) -> Option<Template> {
    let mut memory = Memory::default();
    let mut chosen = read::template(root, &mut memory, problems)?;
    for (name, merged) in environments::read(root, problems) {
        if problems.len() >= MAX_PROBLEMS {
            // A list is full, and checking the rest would take many times as long.
            problems.leave_rest();
            break;
        }
        let mut own = Problems::reading(problems.names);
        let template = read::template(&merged, &mut memory, &mut own);
        problems.add_all_in(&name, own);
        if name == environment {
            chosen = template?;
        }
    }
    Some(chosen)
}

/// The bounds of a time-out in words.
pub(super) fn timeout_expected() -> String {
    format!(
        "a number of seconds from {} to {}",
        MIN_TIMEOUT.as_secs_f64(),
        MAX_TIMEOUT.as_secs()
    )
}
