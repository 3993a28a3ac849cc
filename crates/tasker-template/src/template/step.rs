//! One entry of `step_templates`, before its dependencies are resolved.

use serde_json::Map;

use super::parse_cache::ParseCache;
use super::rails;
use crate::backoff::Backoff;
use crate::limits::{
    DEFAULT_RETRY_LIMIT, DEFAULT_TIMEOUT, MAX_HANDLER_CONFIG_BYTES, MAX_RETRY_LIMIT,
};
use crate::step_template::StepTemplate;
use crate::yaml::fields::{Alias, Field, Fields};
use crate::yaml::position::Pos;
use crate::yaml::problem::Problems;

const KNOWN: [&str; 15] = [
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
    "when",
    "result_schema",
    "inputs",
    "dependent_system",
];

/// A step whose dependencies are still names.
pub(super) struct RawStep<'n> {
    pub step: StepTemplate,
    /// `None` when the name is missing or invalid.
    pub name: Option<Reference<'n>>,
    pub depends_on: Vec<Reference<'n>>,
    /// The steps whose results it receives, if `inputs` is present.
    pub inputs: Option<Vec<Reference<'n>>>,
    /// The condition, which is read once the step's ancestors are known.
    pub when: Option<Field<'n>>,
}

/// A step's name and the place where it is written.
pub(super) struct Reference<'n> {
    pub name: &'n str,
    pub pos: Pos,
    pub path: String,
}

/// Reads one entry; an invalid part adds a problem and takes its default. `service` is the
/// template's own.
pub(super) fn read<'n>(
    item: &Field<'n>,
    service: Option<&str>,
    cache: &mut ParseCache,
    problems: &mut Problems,
) -> RawStep<'n> {
    let Some(fields) = Fields::of(
        item.node,
        &item.path,
        "a step (a mapping with `name` and `handler_class`)",
        problems,
    ) else {
        // The entry keeps its place in the list, on which the indices of the later steps depend.
        return RawStep {
            step: blank(),
            name: None,
            depends_on: Vec::new(),
            inputs: None,
            when: None,
        };
    };
    fields.refuse_unknown(
        &[&KNOWN[..], &rails::OF_STEP.map(|(key, _)| key)].concat(),
        problems,
    );
    rails::warn(&fields, &rails::OF_STEP, problems);

    let mut step = blank();
    let name = required(&fields, "name", fields.get("name"), problems).and_then(|field| {
        field.name(problems).map(|name| Reference {
            name,
            pos: field.node.pos,
            path: field.path,
        })
    });
    step.name = name
        .as_ref()
        .map(|name| name.name.to_owned())
        .unwrap_or_default();
    let handler = fields.either(
        Alias {
            key: "handler_class",
            alias: "handler",
        },
        problems,
    );
    read_settings(
        &fields,
        "handler_class",
        handler,
        service,
        &mut step,
        problems,
    );
    step.result_schema = fields
        .filled("result_schema")
        .and_then(|field| cache.schema(&field, false, problems));
    let depends_on = dependencies(&fields, problems);
    let inputs = fields.filled("inputs").map(|field| {
        let items = field
            .list("a list of step names", problems)
            .unwrap_or_default();
        references(items, problems)
    });
    RawStep {
        step,
        name,
        depends_on,
        inputs,
        when: fields.get("when"),
    }
}

/// Reads the settings that steps and planners share; `key` is the key of the handler, and `service`
/// is the template's own.
pub(super) fn read_settings(
    fields: &Fields<'_>,
    key: &str,
    handler: Option<Field<'_>>,
    service: Option<&str>,
    step: &mut StepTemplate,
    problems: &mut Problems,
) {
    step.description = fields
        .filled("description")
        .and_then(|field| field.text(problems))
        .unwrap_or_default()
        .to_owned();
    set_handler(
        step,
        required(fields, key, handler, problems).and_then(|field| field.name(problems)),
        service,
    );
    // The service of lowest precedence is set first: the default, then `dependent_system`, then
    // `handler_config.service`.
    let dependent_system = fields.filled("dependent_system");
    if let Some(name) = dependent_system
        .as_ref()
        .and_then(|field| field.name(problems))
    {
        name.clone_into(&mut step.service);
    }
    read_retry(fields, step, problems);
    if let Some(field) = fields.filled("handler_config") {
        read_handler_config(&field, step, problems);
    }
    if let Some(field) = dependent_system {
        rails::warn_of_other_service(&field, &step.service, problems);
    }
    if let Some(field) = fields.filled("annotations") {
        step.annotations = field.annotations(problems).unwrap_or_default();
    }
}

pub(super) fn set_handler(step: &mut StepTemplate, handler: Option<&str>, service: Option<&str>) {
    step.handler = handler.unwrap_or_default().to_owned();
    step.service = service.unwrap_or(&step.handler).to_owned();
}

pub(super) fn blank() -> StepTemplate {
    StepTemplate {
        name: String::new(),
        description: String::new(),
        handler: String::new(),
        service: String::new(),
        depends_on: Vec::new(),
        inputs: None,
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
    if let Some(field) = fields.filled("default_retryable") {
        step.retryable = field.bool(problems).unwrap_or(true);
    }
    if let Some(field) = fields.filled("default_retry_limit") {
        step.retry_limit = field
            .integer(1..=MAX_RETRY_LIMIT, problems)
            .unwrap_or(DEFAULT_RETRY_LIMIT);
    }
    // After the limit was checked: a limit out of bounds is reported even where it has no effect.
    if !step.retryable {
        step.retry_limit = 1;
    }
    if let Some(field) = fields.filled("backoff") {
        step.backoff = backoff(&field, problems);
    }
}

fn backoff(field: &Field<'_>, problems: &mut Problems) -> Backoff {
    let mut backoff = Backoff::default();
    let Some(fields) = Fields::of(field.node, &field.path, "a mapping", problems) else {
        return backoff;
    };
    fields.refuse_unknown(&Backoff::FIELDS, problems);
    for name in Backoff::FIELDS {
        let found = fields.filled(name).and_then(|field| {
            field.number(
                &Backoff::expected(name),
                |value| Backoff::fits(name, value),
                problems,
            )
        });
        if let (Some(value), Some(place)) = (found, backoff.field_mut(name)) {
            *place = value;
        }
    }
    let has_max = fields.filled("max_seconds").is_some();
    if backoff.max_seconds < backoff.base_seconds {
        let (base, max) = (backoff.base_seconds, backoff.max_seconds);
        // The problem is reported at the field that the author wrote; the other may be the default.
        let place = if has_max {
            fields.filled("max_seconds")
        } else {
            fields.filled("base_seconds")
        };
        let of_default = if has_max { "" } else { ", the default" };
        let message = format!(
            "expected `max_seconds` ({max}{of_default}) to be at least `base_seconds` ({base})"
        );
        place.as_ref().unwrap_or(field).problem(message, problems);
    }
    backoff
}

fn read_handler_config(field: &Field<'_>, step: &mut StepTemplate, problems: &mut Problems) {
    step.handler_config = field
        .json_map(MAX_HANDLER_CONFIG_BYTES, problems)
        .unwrap_or_default();
    let Some(fields) = Fields::of(
        field.node,
        &field.path,
        "a mapping",
        &mut Problems::default(),
    ) else {
        return;
    };
    if let Some(field) = fields.filled("service") {
        step.service = field.name(problems).unwrap_or_default().to_owned();
    }
    if let Some(field) = fields.filled("timeout_seconds") {
        step.timeout = field.timeout(problems).unwrap_or(DEFAULT_TIMEOUT);
    }
}

fn dependencies<'n>(fields: &Fields<'n>, problems: &mut Problems) -> Vec<Reference<'n>> {
    let both = Alias {
        key: "depends_on_steps",
        alias: "depends_on_step",
    };
    let Some(field) = fields.either(both, problems).filter(Field::is_filled) else {
        return Vec::new();
    };
    let is_list = fields.filled("depends_on_steps").is_some();
    let items = if is_list {
        field
            .list("a list of step names", problems)
            .unwrap_or_default()
    } else {
        vec![field]
    };
    references(items, problems)
}

fn references<'n>(items: Vec<Field<'n>>, problems: &mut Problems) -> Vec<Reference<'n>> {
    let reference = |item: Field<'n>| {
        item.reference(problems).map(|name| Reference {
            name,
            pos: item.node.pos,
            path: item.path,
        })
    };
    items.into_iter().filter_map(reference).collect()
}
