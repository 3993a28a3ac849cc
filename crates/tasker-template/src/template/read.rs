//! The top level of a template.

use std::str::FromStr;

use super::Template;
use super::parse_cache::ParseCache;
use super::step::{self, RawStep};
use super::{conditions, dependencies, inputs, overrides, planner, rails};
use crate::expression::Type;
use crate::limits::{DEFAULT_NAMESPACE, DEFAULT_VERSION, MAX_STEPS_PER_TEMPLATE, PLANNER};
use crate::name::MAX_NAME_BYTES;
use crate::step_template::StepTemplate;
use crate::yaml::fields::{Alias, Field, Fields};
use crate::yaml::node::Node;
use crate::yaml::problem::Problems;

const KNOWN: [&str; 14] = [
    "task_name",
    "name",
    "namespace",
    "namespace_name",
    "version",
    "description",
    "schema",
    "step_templates",
    "annotations",
    "overrides",
    "planner",
    "environments",
    "timeout_seconds",
    "default_dependent_system",
];

/// Reads the document; the result is complete only if no problem was added.
pub(super) fn template(
    root: &Node,
    cache: &mut ParseCache,
    problems: &mut Problems,
) -> Option<Template> {
    let fields = Fields::of(
        root,
        "",
        "a mapping with `task_name` and `step_templates`",
        problems,
    )?;
    fields.refuse_unknown(
        &[&KNOWN[..], &rails::OF_TEMPLATE.map(|(key, _)| key)].concat(),
        problems,
    );
    rails::warn(&fields, &rails::OF_TEMPLATE, problems);

    let task_name = fields.either(
        Alias {
            key: "task_name",
            alias: "name",
        },
        problems,
    );
    if task_name.is_none() {
        fields.missing("task_name", problems);
    }
    let namespace = fields.either(
        Alias {
            key: "namespace",
            alias: "namespace_name",
        },
        problems,
    );
    let namespace = namespace.filter(Field::is_filled);
    let annotations = fields.filled("annotations");
    let schema = fields
        .filled("schema")
        .map(|field| cache.schema(&field, true, problems).unwrap_or_default());
    // The schema is read before the steps and these before the overrides: expressions are checked
    // against the type of the context, and overrides against the steps.
    let context = cache.types.of_context(schema.as_ref());
    let service = fields
        .filled("default_dependent_system")
        .and_then(|field| field.name(problems));
    let planner = fields
        .get("planner")
        .map(|field| planner::read(&field, service, problems));
    let has_planner = planner.is_some();
    let steps = steps(&fields, planner, service, &context, cache, problems);
    let overrides = fields
        .filled("overrides")
        .map(|field| overrides::read(&field, &steps, &context, cache, problems));
    Some(Template {
        task_name: task_name
            .and_then(|field| rails::task_name(&fields, &field, problems))
            .unwrap_or_default(),
        namespace: text(namespace.map_or(Some(DEFAULT_NAMESPACE), |field| field.name(problems))),
        version: version(&fields, problems),
        description: text(
            fields
                .filled("description")
                .and_then(|field| field.text(problems)),
        ),
        schema,
        annotations: annotations
            .and_then(|field| field.annotations(problems))
            .unwrap_or_default(),
        overrides: overrides.unwrap_or_default(),
        planner: has_planner,
        timeout: fields
            .filled("timeout_seconds")
            .and_then(|field| field.timeout(problems)),
        steps,
    })
}

fn text(value: Option<&str>) -> String {
    value.unwrap_or_default().to_owned()
}

fn version(fields: &Fields<'_>, problems: &mut Problems) -> semver::Version {
    let Some(field) = fields.filled("version") else {
        return DEFAULT_VERSION;
    };
    let Some(text) = field.text(problems) else {
        return DEFAULT_VERSION;
    };
    // Before the parser, which accepts labels of any length.
    if text.len() > MAX_NAME_BYTES {
        field.problem(
            format!(
                "the version has {} bytes, but at most {MAX_NAME_BYTES} are allowed",
                text.len()
            ),
            problems,
        );
        return DEFAULT_VERSION;
    }
    semver::Version::from_str(text).unwrap_or_else(|error| {
        field.problem(
            format!("expected a semantic version such as 1.4.0, found {text:?}: {error}"),
            problems,
        );
        DEFAULT_VERSION
    })
}

fn steps(
    fields: &Fields<'_>,
    planner: Option<StepTemplate>,
    service: Option<&str>,
    context: &Type,
    cache: &mut ParseCache,
    problems: &mut Problems,
) -> Vec<StepTemplate> {
    let Some(field) = fields.get("step_templates") else {
        fields.missing("step_templates", problems);
        return Vec::new();
    };
    let Some(items) = field.list("a list of steps", problems) else {
        return Vec::new();
    };
    if items.is_empty() {
        field.problem("expected at least one step, found an empty list", problems);
    }
    let count = items.len() + usize::from(planner.is_some());
    if count > MAX_STEPS_PER_TEMPLATE {
        let message = format!(
            "the template has {count} steps, but at most {MAX_STEPS_PER_TEMPLATE} are allowed"
        );
        field.problem(message, problems);
        return Vec::new();
    }
    let mut raw: Vec<RawStep<'_>> = items
        .iter()
        .map(|item| step::read(item, service, cache, problems))
        .collect();
    if planner.is_some() {
        refuse_second_planner(&raw, problems);
    }
    let whens: Vec<Option<Field<'_>>> = raw.iter_mut().map(|step| step.when.take()).collect();
    let named: Vec<_> = raw.iter_mut().map(|step| step.inputs.take()).collect();
    // Names are resolved before inputs and conditions are read, since both depend on the ancestors
    // of a step. The planner is inserted last, since it shifts all indices.
    let before = problems.len();
    let mut steps = dependencies::resolve(raw, problems);
    let known = problems.len() == before;
    inputs::read(&mut steps, &named, known, problems);
    conditions::read(&mut steps, &whens, context, known, cache, problems);
    if let Some(planner) = planner {
        planner::put_first(planner, &mut steps);
    }
    steps
}

fn refuse_second_planner(raw: &[RawStep<'_>], problems: &mut Problems) {
    for name in raw
        .iter()
        .filter_map(|step| step.name.as_ref())
        .filter(|name| name.name == PLANNER)
    {
        let message = format!(
            "the step name `{PLANNER}` is taken by the template's planner; expected another name"
        );
        problems.add(name.pos, name.path.as_str(), message);
    }
}
