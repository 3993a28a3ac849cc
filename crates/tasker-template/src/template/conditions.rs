//! `when` of a step: the condition that decides, once its parents are done, whether the step runs.

use std::cell::Cell;
use std::collections::HashMap;

use serde_json::Value;

use super::Graph;
use super::parse_cache::ParseCache;
use crate::expression::{Scope, Type};
use crate::step_index::StepIndex;
use crate::step_template::StepTemplate;
use crate::text::{did_you_mean, shorten};
use crate::yaml::fields::Field;
use crate::yaml::problem::{MAX_PROBLEMS, Problems};

/// Fills in [`StepTemplate::condition`]. `linked` means that the dependencies are valid; otherwise
/// the order of steps is not checked.
pub(super) fn read(
    steps: &mut [StepTemplate],
    whens: &[Option<Field<'_>>],
    context: &Type,
    linked: bool,
    cache: &mut ParseCache,
    problems: &mut Problems,
) {
    // The graph and the types are not built for a template without conditions.
    if whens.iter().all(Option::is_none) {
        return;
    }
    let graph = Graph::from_dependencies(steps.iter().map(|step| step.depends_on.as_slice()));
    // Owned names, since the conditions are written into `steps` below.
    let index: HashMap<String, StepIndex> = steps
        .iter()
        .zip(graph.steps())
        .map(|(step, index)| (step.name.clone(), index))
        .collect();
    let names: Vec<String> = steps.iter().map(|step| step.name.clone()).collect();
    let hints = Cell::new(0);
    let types: Vec<Type> = steps
        .iter()
        .map(|step| {
            cache
                .types
                .of_schema(step.result_schema.as_ref().unwrap_or(&Value::Null))
        })
        .collect();
    for (position, when) in graph.steps().zip(whens) {
        let Some(field) = when else { continue };
        let results = |name: &str| match index.get(name) {
            // With invalid dependencies the ancestors are unknown; a second problem would only
            // repeat the first.
            Some(step) if !linked || graph.precedes(*step, position) => {
                Ok(types[usize::from(*step)].clone())
            }
            Some(_) => Err(format!(
                "the step `{}` does not come before this one; expected it in `depends_on_steps`",
                shorten(name)
            )),
            None => {
                // As many as are listed: each search visits all names.
                hints.set(hints.get() + 1);
                let hint = if hints.get() > MAX_PROBLEMS {
                    String::new()
                } else {
                    did_you_mean(name, names.iter().map(String::as_str))
                };
                Err(format!("there is no step `{}`{hint}", shorten(name)))
            }
        };
        let scope = Scope {
            context,
            results: Some(&results),
        };
        steps[usize::from(position)].condition = cache.condition(field, &scope, problems);
    }
}
