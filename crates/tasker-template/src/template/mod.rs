//! The workflow definition: a template, and its parser, which reads YAML and reports all problems
//! at once.

mod answer;
mod conditions;
mod dependencies;
mod environments;
mod graph;
mod inputs;
mod overrides;
mod parse_cache;
mod planner;
mod rails;
mod read;
mod step;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde_json::{Map, Value};

pub use answer::{AdjustmentError, MAX_ADJUSTMENT_BYTES};
pub use graph::Graph;
pub use overrides::Override;

use crate::limits::MAX_TEMPLATE_BYTES;
use crate::step_template::StepTemplate;
use crate::yaml;
use crate::yaml::node::Node;
use crate::yaml::position::Pos;
use crate::yaml::problem::{MAX_PROBLEMS, Names, Problem, Problems};
use environments::Environments;
use parse_cache::ParseCache;

/// One version of a workflow definition, validated.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    /// With `task_name` and `version` the template's identity. At most [`MAX_NAME_BYTES`](crate::MAX_NAME_BYTES).
    pub namespace: String,
    /// At most [`MAX_NAME_BYTES`](crate::MAX_NAME_BYTES).
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
    /// [`MAX_OVERRIDES`](crate::MAX_OVERRIDES).
    pub overrides: Vec<Override>,
    /// Whether the first step is a planner, which all others wait for.
    pub planner: bool,
    /// Time from a task's submit, or from its `not_before`, to its deadline: [`MIN_TIMEOUT`](crate::MIN_TIMEOUT) to
    /// [`MAX_TIMEOUT`](crate::MAX_TIMEOUT).
    pub timeout: Option<Duration>,
    /// In the order of the file; 1 to [`MAX_STEPS_PER_TEMPLATE`](crate::MAX_STEPS_PER_TEMPLATE).
    pub steps: Vec<StepTemplate>,
}

/// The result of checking a text as a template.
#[derive(Debug, Clone)]
pub struct Checked {
    /// Set when there is no problem.
    pub template: Option<Template>,
    /// In order of position, at most [`MAX_PROBLEMS`](crate::MAX_PROBLEMS); if there are more, the last one states how
    /// many are not listed.
    pub problems: Vec<Problem>,
    /// Number of distinct problems found, including those that are not listed. Environments are
    /// checked until the list is full.
    pub problems_total: usize,
    /// Warnings for the author of a valid or invalid template, in order of position and at most
    /// [`MAX_PROBLEMS`](crate::MAX_PROBLEMS) likewise.
    pub warnings: Vec<Problem>,
}

impl Template {
    /// Reads a template from untrusted YAML of at most [`MAX_TEMPLATE_BYTES`](crate::MAX_TEMPLATE_BYTES) for `environment`. An
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
    // Before the list is cut to its bound.
    let problems_total = problems.len();
    // Defaults are in place of the invalid parts, so such a template must not be used.
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
    let mut cache = ParseCache::default();
    let mut chosen = read::template(root, &mut cache, problems)?;
    let Some(environments) = Environments::of(root, problems) else {
        return Some(chosen);
    };
    for (name, field) in environments.all() {
        if problems.len() >= MAX_PROBLEMS {
            // A list is full, and checking the rest would take many times as long.
            problems.leave_rest();
            break;
        }
        let Some(merged) = environments.merged(field, problems) else {
            continue;
        };
        // Collected apart, since a problem of the template itself would repeat in each environment.
        let mut own = Problems::reading(problems.names);
        let template = read::template(&merged, &mut cache, &mut own);
        problems.add_all_in(name, own);
        if name == environment {
            chosen = template?;
        }
    }
    Some(chosen)
}
