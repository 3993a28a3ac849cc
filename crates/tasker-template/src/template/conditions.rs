//! `when` of a step: the condition that decides, once its parents are done, whether the step runs.

use std::collections::HashMap;

use serde_json::Value;

use super::Graph;
use super::parse_cache::ParseCache;
use crate::expression::{Scope, Type};
use crate::step_template::StepTemplate;
use crate::text::{did_you_mean, shorten};
use crate::yaml::fields::Field;
use crate::yaml::problem::Problems;

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
    let index: HashMap<String, usize> = steps
        .iter()
        .enumerate()
        .map(|(i, step)| (step.name.clone(), i))
        .collect();
    let types: Vec<Type> = steps
        .iter()
        .map(|step| {
            cache
                .types
                .of_schema(step.result_schema.as_ref().unwrap_or(&Value::Null))
        })
        .collect();
    for (position, when) in whens.iter().enumerate() {
        let Some(field) = when else { continue };
        let results = |name: &str| match index.get(name) {
            // With invalid dependencies the ancestors are unknown; a second problem would only
            // repeat the first.
            Some(step) if !linked || graph.ancestors(position).contains(&(*step as u16)) => {
                Ok(types[*step].clone())
            }
            Some(_) => Err(format!(
                "the step `{}` does not come before this one; expected it in `depends_on_steps`",
                shorten(name)
            )),
            None => {
                let hint = did_you_mean(name, index.keys().map(String::as_str));
                Err(format!("there is no step `{}`{hint}", shorten(name)))
            }
        };
        let scope = Scope {
            context,
            results: Some(&results),
        };
        steps[position].condition = cache.condition(field, &scope, problems);
    }
}
