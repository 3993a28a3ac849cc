//! The top level of a template.

use std::str::FromStr;

use serde_json::Value;

use super::fields::{Alias, Field, Fields};
use super::links;
use super::node::Node;
use super::problem::Problems;
use super::step::{self, RawStep};
use super::{
    DEFAULT_NAMESPACE, DEFAULT_VERSION, MAX_ANNOTATIONS_BYTES, MAX_NAME_BYTES, MAX_STEPS_PER_TEMPLATE, PLANNER_STEP,
    StepTemplate, Template,
};
use crate::domain::schema::{ContextSchema, SchemaProblem};

const KNOWN: [&str; 12] = [
    "task_name",
    "name",
    "namespace",
    "namespace_name",
    "version",
    "description",
    "schema",
    "step_templates",
    "annotations",
    "planner",
    "timeout_seconds",
    "environments",
];

/// Part of the format, but a template that has them would not do what it says.
const LATER: [&str; 1] = ["overrides"];

/// Reads the document; the result is complete only if no problem was added.
pub(super) fn template(root: &Node, problems: &mut Problems) -> Option<Template> {
    let fields = Fields::of(root, "", "a mapping with `task_name` and `step_templates`", problems)?;
    fields.refuse_unknown(&KNOWN, &LATER, problems);

    let task_name = fields.either(Alias { key: "task_name", alias: "name" }, problems);
    if task_name.is_none() {
        fields.missing("task_name", problems);
    }
    let namespace = fields.either(Alias { key: "namespace", alias: "namespace_name" }, problems);
    let annotations = fields.get("annotations");
    let planner = fields.get("planner").map(|field| step::planner(&field, problems));
    Some(Template {
        task_name: text(task_name.and_then(|field| field.name(&[], problems))),
        namespace: text(namespace.map_or(Some(DEFAULT_NAMESPACE), |field| field.name(&[], problems))),
        version: version(&fields, problems),
        description: text(fields.get("description").and_then(|field| field.text(problems))),
        schema: fields.get("schema").map(|field| schema(&field, ContextSchema::compile, problems)),
        annotations: annotations.and_then(|field| field.json_map(MAX_ANNOTATIONS_BYTES, problems)).unwrap_or_default(),
        overrides: Vec::new(),
        planner: planner.is_some(),
        timeout: fields.get("timeout_seconds").and_then(|field| step::timeout(&field, problems)),
        steps: planned(planner, steps(&fields, problems)),
    })
}

fn text(value: Option<&str>) -> String {
    value.unwrap_or_default().to_owned()
}

fn version(fields: &Fields<'_>, problems: &mut Problems) -> semver::Version {
    let Some(field) = fields.get("version") else {
        return DEFAULT_VERSION;
    };
    let Some(text) = field.text(problems) else {
        return DEFAULT_VERSION;
    };
    if text.len() > MAX_NAME_BYTES {
        field.problem(
            format!("the version has {} bytes, but at most {MAX_NAME_BYTES} are allowed", text.len()),
            problems,
        );
        return DEFAULT_VERSION;
    }
    semver::Version::from_str(text).unwrap_or_else(|error| {
        field.problem(format!("expected a semantic version such as 1.4.0, found {text:?}: {error}"), problems);
        DEFAULT_VERSION
    })
}

/// How a schema is compiled: of contexts, or of results.
pub(super) type Compile = fn(&Value) -> Result<ContextSchema, Vec<SchemaProblem>>;

/// Each problem of the schema at the place in the YAML that its JSON pointer leads to.
pub(super) fn schema(field: &Field<'_>, compile: Compile, problems: &mut Problems) -> Value {
    if Fields::of(field.node, &field.path, "a mapping (a JSON Schema)", problems).is_none() || field.node.is_broken() {
        return Value::Null;
    }
    let schema = field.node.to_json();
    if let Err(found) = compile(&schema) {
        for problem in found {
            let (pos, path) = field.node.locate(&problem.pointer, &field.path);
            problems.add(pos, path, problem.message);
        }
    }
    schema
}

/// The planner comes before everything that waits for nothing.
fn planned(planner: Option<StepTemplate>, mut steps: Vec<StepTemplate>) -> Vec<StepTemplate> {
    let Some(planner) = planner else { return steps };
    for step in &mut steps {
        step.depends_on.iter_mut().for_each(|parent| *parent += 1);
        if step.depends_on.is_empty() {
            step.depends_on.push(0);
        }
    }
    steps.insert(0, planner);
    steps
}

fn steps(fields: &Fields<'_>, problems: &mut Problems) -> Vec<StepTemplate> {
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
    if items.len() > MAX_STEPS_PER_TEMPLATE {
        let message =
            format!("the template has {} steps, but at most {MAX_STEPS_PER_TEMPLATE} are allowed", items.len());
        field.problem(message, problems);
        return Vec::new();
    }
    let raw: Vec<RawStep<'_>> = items.iter().map(|item| step::read(item, problems)).collect();
    let named_like_it = raw.iter().filter_map(|step| step.name.as_ref()).find(|name| name.name == PLANNER_STEP);
    if let (Some(_), Some(name)) = (fields.get("planner"), named_like_it) {
        problems.add(name.pos, name.path.as_str(), "the planner is the step of this name; expected another one");
    }
    links::resolve(raw, problems)
}
