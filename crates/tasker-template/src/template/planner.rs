//! `planner`: a step before all others, whose result changes the task's steps.

use super::step;
use crate::limits::PLANNER;
use crate::step_index::StepIndex;
use crate::step_template::StepTemplate;
use crate::yaml::fields::{Alias, Field, Fields};
use crate::yaml::node::Data;
use crate::yaml::problem::Problems;

const KNOWN: [&str; 9] = [
    "handler",
    "handler_class",
    "description",
    "default_retryable",
    "default_retry_limit",
    "handler_config",
    "backoff",
    "annotations",
    "dependent_system",
];

/// Reads the planner's step; an invalid part adds a problem and takes its default. `service` is the
/// template's own.
pub(super) fn read(
    field: &Field<'_>,
    service: Option<&str>,
    problems: &mut Problems,
) -> StepTemplate {
    let mut planner = StepTemplate {
        name: PLANNER.to_owned(),
        ..step::blank()
    };
    let described = |planner: StepTemplate| match planner.description.as_str() {
        "" => StepTemplate {
            description: "plans the other steps".to_owned(),
            ..planner
        },
        _ => planner,
    };
    // A text alone is the short form: the name of the handler, and defaults for the rest.
    if matches!(field.node.data, Data::Text(_)) {
        step::set_handler(&mut planner, field.name(problems), service);
        return described(planner);
    }
    let what = "a handler's name, or a mapping with `handler`";
    if let Some(fields) = Fields::of(field.node, &field.path, what, problems) {
        fields.refuse_unknown(&KNOWN, problems);
        let handler = fields.either(
            Alias {
                key: "handler",
                alias: "handler_class",
            },
            problems,
        );
        step::read_settings(&fields, "handler", handler, service, &mut planner, problems);
    }
    described(planner)
}

/// Puts the planner before the steps: each root waits for it.
pub(super) fn put_first(planner: StepTemplate, steps: &mut Vec<StepTemplate>) {
    // Shifted first, since from here on the first index is the planner's. None is the last one that
    // a template may have, since the number of steps counts the planner.
    let shifted = |all: &[StepIndex]| all.iter().filter_map(|step| step.next().ok()).collect();
    for step in steps.iter_mut() {
        step.depends_on = shifted(&step.depends_on);
        step.inputs = step.inputs.as_deref().map(shifted);
        if step.depends_on.is_empty() {
            step.depends_on.push(StepIndex::FIRST);
        }
    }
    steps.insert(0, planner);
}
