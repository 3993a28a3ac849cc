//! Compiles a registered template.

use tasker_template::{ContextSchema, Graph, StepTemplate, Template};

use super::{compiled::Plan, sizes};
use crate::{engine::counters::PlanCounts, store::template::TemplateRow};

/// Compiles a row; `None` if this build cannot read it, so its tasks cannot run here.
pub fn compile(row: TemplateRow, counts: impl FnOnce(&Template) -> PlanCounts) -> Option<Plan> {
    let template = match Template::parse_stored(&row.yaml, &row.environment) {
        Ok(template) => template,
        Err(problems) => {
            let first = problems
                .first()
                .map(ToString::to_string)
                .unwrap_or_default();
            tracing::error!(
                row.template_id,
                row.namespace,
                row.task_name,
                row.version,
                problem = first,
                "a registered template cannot be read by this version"
            );
            return None;
        }
    };
    let schema = template
        .schema
        .as_ref()
        .and_then(|schema| ContextSchema::compile(schema).ok());
    let handler_configs = template
        .steps
        .iter()
        .map(|s| serde_json::Value::Object(s.handler_config.clone()).to_string())
        .collect();
    let compiled = |step: &StepTemplate| {
        step.result_schema
            .as_ref()
            .and_then(|s| ContextSchema::compile_result(s).ok())
    };
    let mut plan = Plan {
        inputs: template
            .steps
            .iter()
            .map(|step| step.inputs.clone())
            .collect(),
        fixed: Vec::new(),
        result_schemas: template.steps.iter().map(compiled).collect(),
        conditional: template.steps.iter().any(|step| step.condition.is_some()),
        template_id: row.template_id,
        graph: Graph::of(&template),
        counts: counts(&template),
        schema,
        lanes: row.lanes,
        handler_configs,
        yaml: row.yaml,
        environment: row.environment,
        registered_at: row.registered_at,
        template,
    };
    plan.fixed = sizes::fixed(&plan);
    Some(plan)
}

/// A plan as after its registration, with lane `n + 1` for the `n`th step.
#[cfg(test)]
pub fn plan_for_tests(template_id: i32, yaml: &str) -> std::sync::Arc<Plan> {
    let steps = i32::try_from(Template::parse(yaml, "").unwrap().steps.len()).unwrap();
    let row = TemplateRow {
        template_id,
        namespace: String::new(),
        task_name: String::new(),
        version: String::new(),
        yaml: yaml.to_owned(),
        environment: String::new(),
        registered_at: std::time::SystemTime::UNIX_EPOCH,
        lanes: (1..=steps).collect(),
    };
    std::sync::Arc::new(
        compile(row, |template| {
            let steps = template
                .steps
                .iter()
                .map(|_| std::sync::Arc::default())
                .collect();
            PlanCounts::new(std::sync::Arc::default(), steps)
        })
        .unwrap(),
    )
}
