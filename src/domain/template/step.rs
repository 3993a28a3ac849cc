//! One entry of `step_templates`, before its dependencies are resolved.

use std::time::Duration;

use serde_json::Map;

use super::fields::{Alias, Field, Fields};
use super::node::Data;
use super::problem::{Pos, Problems};
use super::read::schema;
use super::{
    DEFAULT_RETRY_LIMIT, DEFAULT_TIMEOUT, MAX_ANNOTATIONS_BYTES, MAX_HANDLER_CONFIG_BYTES, MAX_RETRY_LIMIT,
    MAX_TIMEOUT, MIN_TIMEOUT, PLANNER_STEP, StepTemplate,
};
use crate::domain::retry::Backoff;
use crate::domain::schema::ContextSchema;

const KNOWN: [&str; 12] = [
    "name",
    "description",
    "handler_class",
    "handler",
    "depends_on_steps",
    "depends_on_step",
    "default_retryable",
    "default_retry_limit",
    "handler_config",
    "backoff",
    "annotations",
    "result_schema",
];

/// What a planner may say of itself.
const OF_PLANNER: [&str; 7] = [
    "handler_class",
    "handler",
    "default_retryable",
    "default_retry_limit",
    "handler_config",
    "backoff",
    "annotations",
];

const BACKOFF: [&str; 4] = ["base_seconds", "multiplier", "max_seconds", "jitter"];

/// A step whose dependencies are still names.
pub(super) struct RawStep<'n> {
    pub step: StepTemplate,
    /// None when the name is missing or not usable.
    pub name: Option<Reference<'n>>,
    pub depends_on: Vec<Reference<'n>>,
}

/// A step's name where it is written.
pub(super) struct Reference<'n> {
    pub name: &'n str,
    pub pos: Pos,
    pub path: String,
}

/// Reads one entry; what is wrong with it becomes problems and default values.
pub(super) fn read<'n>(item: &Field<'n>, problems: &mut Problems) -> RawStep<'n> {
    let Some(fields) =
        Fields::of(item.node, &item.path, "a step (a mapping with `name` and `handler_class`)", problems)
    else {
        return RawStep { step: blank(), name: None, depends_on: Vec::new() };
    };
    fields.refuse_unknown(&KNOWN, &[], problems);

    let mut step = blank();
    let name = required(&fields, "name", fields.get("name"), problems).and_then(|field| {
        field.name(&['/'], problems).map(|name| Reference { name, pos: field.node.pos, path: field.path })
    });
    step.name = name.as_ref().map(|name| name.name.to_owned()).unwrap_or_default();
    step.description = fields.get("description").and_then(|field| field.text(problems)).unwrap_or_default().to_owned();

    read_work(&fields, &mut step, problems);
    step.result_schema = fields.get("result_schema").map(|field| schema(&field, ContextSchema::of_results, problems));
    let depends_on = dependencies(&fields, problems);
    RawStep { step, name, depends_on }
}

/// The step that a planner is: a handler's name, or a mapping.
pub(super) fn planner(field: &Field<'_>, problems: &mut Problems) -> StepTemplate {
    let mut step = StepTemplate { name: PLANNER_STEP.to_owned(), ..blank() };
    step.description = "plans the other steps".to_owned();
    if let Data::Map(_) = &field.node.data {
        if let Some(fields) = Fields::of(field.node, &field.path, "a mapping", problems) {
            fields.refuse_unknown(&OF_PLANNER, &[], problems);
            read_work(&fields, &mut step, problems);
        }
    } else {
        step.handler = field.name(&[], problems).unwrap_or_default().to_owned();
        step.service = step.handler.clone();
    }
    step
}

/// What is to be done, and how often it is tried.
fn read_work(fields: &Fields<'_>, step: &mut StepTemplate, problems: &mut Problems) {
    let handler = fields.either(Alias { key: "handler_class", alias: "handler" }, problems);
    let handler = required(fields, "handler_class", handler, problems).and_then(|field| field.name(&[], problems));
    step.handler = handler.unwrap_or_default().to_owned();
    step.service = step.handler.clone();
    read_retry(fields, step, problems);
    if let Some(field) = fields.get("handler_config") {
        read_handler_config(&field, step, problems);
    }
    if let Some(field) = fields.get("annotations") {
        step.annotations = field.json_map(MAX_ANNOTATIONS_BYTES, problems).unwrap_or_default();
    }
}

/// A number of seconds that something may take.
pub(super) fn timeout(field: &Field<'_>, problems: &mut Problems) -> Option<Duration> {
    let what = format!("a number of seconds from {} to {}", MIN_TIMEOUT.as_secs_f64(), MAX_TIMEOUT.as_secs());
    let fits = |seconds: f64| (MIN_TIMEOUT.as_secs_f64()..=MAX_TIMEOUT.as_secs_f64()).contains(&seconds);
    field.number(&what, fits, problems).map(Duration::from_secs_f64)
}

fn blank() -> StepTemplate {
    StepTemplate {
        name: String::new(),
        description: String::new(),
        handler: String::new(),
        service: String::new(),
        depends_on: Vec::new(),
        retry_limit: DEFAULT_RETRY_LIMIT,
        retryable: true,
        timeout: DEFAULT_TIMEOUT,
        backoff: Backoff::default(),
        condition: None,
        result_schema: None,
        handler_config: Map::new(),
        annotations: Map::new(),
    }
}

fn required<'n>(
    fields: &Fields<'n>,
    key: &str,
    field: Option<Field<'n>>,
    problems: &mut Problems,
) -> Option<Field<'n>> {
    if field.is_none() {
        fields.missing(key, problems);
    }
    field
}

fn read_retry(fields: &Fields<'_>, step: &mut StepTemplate, problems: &mut Problems) {
    if let Some(field) = fields.get("default_retryable") {
        step.retryable = field.bool(problems).unwrap_or(true);
    }
    if let Some(field) = fields.get("default_retry_limit") {
        step.retry_limit = field.integer(1..=MAX_RETRY_LIMIT, problems).unwrap_or(DEFAULT_RETRY_LIMIT);
    }
    if !step.retryable {
        step.retry_limit = 1;
    }
    if let Some(field) = fields.get("backoff") {
        step.backoff = backoff(&field, problems);
    }
}

fn backoff(field: &Field<'_>, problems: &mut Problems) -> Backoff {
    let mut backoff = Backoff::default();
    let Some(fields) = Fields::of(field.node, &field.path, "a mapping", problems) else {
        return backoff;
    };
    fields.refuse_unknown(&BACKOFF, &[], problems);
    let mut set = |key: &str, value: &mut f64, above_zero: bool, range: std::ops::RangeInclusive<f64>| {
        let lower = if above_zero { "more than 0 and at most".into() } else { format!("from {} to", range.start()) };
        let what = format!("a number {lower} {}", range.end());
        let fits = |number: f64| range.contains(&number) && !(above_zero && number <= 0.0);
        let found = fields.get(key).map(|field| field.number(&what, fits, problems));
        *value = found.flatten().unwrap_or(*value);
        found.is_some()
    };
    set("base_seconds", &mut backoff.base_seconds, true, 0.0..=Backoff::MAX_BASE_SECONDS);
    set("multiplier", &mut backoff.multiplier, false, 1.0..=Backoff::MAX_MULTIPLIER);
    let has_max = set("max_seconds", &mut backoff.max_seconds, true, 0.0..=Backoff::MAX_SECONDS);
    set("jitter", &mut backoff.jitter, false, 0.0..=1.0);

    if backoff.max_seconds < backoff.base_seconds {
        let (base, max) = (backoff.base_seconds, backoff.max_seconds);
        let place = if has_max { fields.get("max_seconds") } else { fields.get("base_seconds") };
        let of_default = if has_max { "" } else { ", the default" };
        let message = format!("expected `max_seconds` ({max}{of_default}) to be at least `base_seconds` ({base})");
        place.as_ref().unwrap_or(field).problem(message, problems);
    }
    backoff
}

fn read_handler_config(field: &Field<'_>, step: &mut StepTemplate, problems: &mut Problems) {
    step.handler_config = field.json_map(MAX_HANDLER_CONFIG_BYTES, problems).unwrap_or_default();
    let Some(fields) = Fields::of(field.node, &field.path, "a mapping", &mut Problems::default()) else {
        return;
    };
    if let Some(field) = fields.get("service") {
        step.service = field.name(&[], problems).unwrap_or_default().to_owned();
    }
    if let Some(field) = fields.get("timeout_seconds") {
        step.timeout = timeout(&field, problems).unwrap_or(DEFAULT_TIMEOUT);
    }
}

fn dependencies<'n>(fields: &Fields<'n>, problems: &mut Problems) -> Vec<Reference<'n>> {
    let both = Alias { key: "depends_on_steps", alias: "depends_on_step" };
    let Some(field) = fields.either(both, problems) else {
        return Vec::new();
    };
    let is_list = fields.get("depends_on_steps").is_some();
    let items = if is_list { field.list("a list of step names", problems).unwrap_or_default() } else { vec![field] };
    let reference =
        |item: Field<'n>| item.name(&[], problems).map(|name| Reference { name, pos: item.node.pos, path: item.path });
    items.into_iter().filter_map(reference).collect()
}
