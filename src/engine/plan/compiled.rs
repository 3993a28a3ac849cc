//! A compiled template: the graph, the schemas, the lanes and the sizes that the engine derives from
//! it.

use std::{sync::Arc, time::SystemTime};

use serde_json::{Value, json};
use tasker_template::{Budget, ContextSchema, Graph, Misfit, StepIndex, StepTemplate, Template};

use crate::engine::{counters::PlanCounts, hash::HashMap};

/// The plans of the templates that a transaction touches, by id.
pub type Plans = HashMap<i32, Arc<Plan>>;

/// A compiled template, with everything the engine derives from it.
pub struct Plan {
    pub template_id: i32,
    pub template: Template,
    pub graph: Graph,
    pub schema: Option<ContextSchema>,
    /// The schema of each step's result.
    pub result_schemas: Vec<Option<ContextSchema>>,
    /// Whether any step has a condition.
    pub conditional: bool,
    /// The lane of each step.
    pub lanes: Vec<i32>,
    /// JSON text of each step's `handler_config`.
    pub handler_configs: Vec<String>,
    /// The ancestors whose results each step receives, if not all.
    pub(super) inputs: Vec<Option<Vec<StepIndex>>>,
    /// The size of each step's assignment without the documents of its task, in bytes.
    pub(super) fixed: Vec<i32>,
    pub yaml: String,
    /// The environment in which it was registered.
    pub environment: String,
    pub registered_at: SystemTime,
    pub counts: PlanCounts,
}

impl Plan {
    /// The step at a position read from the database.
    pub fn step(&self, step: i16) -> Option<&StepTemplate> {
        self.template.steps.get(usize::try_from(step).ok()?)
    }

    /// The ancestors whose results a step receives, in ascending order.
    pub fn inputs(&self, step: StepIndex) -> &[StepIndex] {
        match self.inputs.get(usize::from(step)) {
            Some(Some(named)) => named,
            Some(None) => self.graph.ancestors(step),
            None => &[],
        }
    }

    /// The same for a position read from the database.
    pub fn inputs_of(&self, step: i16) -> &[StepIndex] {
        StepIndex::try_from(step).map_or(&[], |step| self.inputs(step))
    }

    /// The size of a step's assignment without the documents of its task, in bytes.
    pub fn fixed(&self, step: i16) -> i32 {
        usize::try_from(step)
            .ok()
            .and_then(|step| self.fixed.get(step).copied())
            .unwrap_or_default()
    }

    /// The lane of a step of this template; 0, which is no lane, for a position that does not
    /// exist.
    pub fn lane(&self, step: impl Into<u16>) -> i32 {
        self.lanes
            .get(usize::from(step.into()))
            .copied()
            .unwrap_or_default()
    }
}

impl Plan {
    /// Whether a step is the planner of the others.
    pub fn is_planner(&self, step: impl Into<i16>) -> bool {
        self.template.planner && step.into() == 0
    }

    /// Whether conditions decide which steps run.
    pub fn is_conditional(&self) -> bool {
        self.conditional
    }

    /// Whether the result of this step needs an evaluation: it has a schema or is a planner's.
    pub fn judges_result(&self, step: i16) -> bool {
        let schema = usize::try_from(step)
            .ok()
            .and_then(|step| self.result_schemas.get(step)?.as_ref());
        self.is_planner(step) || schema.is_some()
    }

    /// Whether the end of this step may need an evaluation, as far as the template shows.
    pub fn judges(&self, step: i16) -> bool {
        let is_conditional = |child: &StepIndex| {
            self.template
                .steps
                .get(usize::from(*child))
                .is_some_and(|child| child.condition.is_some())
        };
        let children = || match StepIndex::try_from(step) {
            Ok(step) => self.graph.children(step),
            Err(_) => &[],
        };
        self.judges_result(step) || self.conditional && children().iter().any(is_conditional)
    }

    /// Validates a result against the step's schema.
    pub fn check_result(&self, step: i16, result: &Value, budget: &Budget) -> Result<(), Misfit> {
        let schema = usize::try_from(step)
            .ok()
            .and_then(|step| self.result_schemas.get(step)?.as_ref());
        schema.map_or(Ok(()), |schema| schema.check(result, budget))
    }

    /// The value of the variable `task` in expressions.
    pub fn task_value(&self, correlation_id: &str, priority: i32) -> Value {
        let t = &self.template;
        json!({
            "namespace": t.namespace,
            "task_name": t.task_name,
            "version": t.version.to_string(),
            "correlation_id": correlation_id,
            "priority": priority,
        })
    }
}
