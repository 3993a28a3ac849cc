//! The steps of one task: the template's, with the changes of overrides and a planner.

use std::borrow::Cow;

use serde_json::{Value, json};
use tasker_template::{Budget, Misfit, Settings, StepTemplate};

use super::catalog::Plan;

impl Plan {
    /// Whether a step is the planner of the others.
    pub fn is_planner(&self, step: i16) -> bool {
        self.template.planner && step == 0
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
        let is_conditional = |child: &u16| {
            self.template
                .steps
                .get(usize::from(*child))
                .is_some_and(|child| child.condition.is_some())
        };
        let children = || {
            self.graph
                .children(usize::try_from(step).unwrap_or(usize::MAX))
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

    /// The size of the steps shown to a planner, in bytes, before any adjustment.
    pub fn planned_bytes(&self) -> usize {
        Effective::of(self, None).planned_steps().len()
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

/// A plan with the settings of one task.
pub struct Effective<'a> {
    pub plan: &'a Plan,
    pub settings: Settings,
}

impl<'a> Effective<'a> {
    /// `settings` is the column of the task's row, which was validated before it was stored. A text
    /// that cannot be read is logged and changes nothing.
    pub fn of(plan: &'a Plan, settings: Option<&str>) -> Self {
        let read = |text: &str| {
            Settings::from_json(text, &plan.template)
                .inspect_err(|why| tracing::error!(why, "the settings of a task cannot be read"))
                .ok()
        };
        Self {
            plan,
            settings: settings.and_then(read).unwrap_or_default(),
        }
    }

    /// The step at a position read from the database.
    pub fn step(&self, step: i16) -> Option<Cow<'a, StepTemplate>> {
        let index = usize::try_from(step).ok()?;
        match self.settings.step(&self.plan.template, index) {
            Some(changed) => Some(Cow::Owned(changed)),
            None => self.plan.template.steps.get(index).map(Cow::Borrowed),
        }
    }

    /// The time limit of a step's attempts, if it differs from the template's.
    pub fn timeout(&self, step: u16) -> Option<std::time::Duration> {
        let index = usize::from(step);
        let changed = self.settings.step(&self.plan.template, index)?.timeout;
        (changed != self.plan.template.steps.get(index)?.timeout).then_some(changed)
    }

    /// The settings of a step that differ from the template's, and the origin of each.
    pub fn origins(&self, step: i16) -> Vec<(String, String)> {
        usize::try_from(step)
            .map(|step| self.settings.origins(&self.plan.template, step))
            .unwrap_or_default()
    }

    /// The steps as shown to a planner: a JSON array.
    pub fn planned_steps(&self) -> String {
        let steps = &self.plan.template.steps;
        let names = |parents: &[usize]| -> Vec<&str> {
            let planned = parents
                .iter()
                .filter(|p| !self.plan.is_planner(i16::try_from(**p).unwrap_or_default()));
            planned
                .filter_map(|p| Some(steps.get(*p)?.name.as_str()))
                .collect()
        };
        let of = |(index, template): (usize, &StepTemplate)| {
            let changed = self.settings.step(&self.plan.template, index);
            let step = changed.as_ref().unwrap_or(template);
            json!({
                "name": step.name,
                "handler": step.handler,
                "service": step.service,
                "depends_on_steps": names(&step.depends_on),
                "retry_limit": step.retry_limit,
                "default_retryable": step.retryable,
                "handler_config": step.handler_config,
                "annotations": step.annotations,
                "backoff": {
                    "base_seconds": step.backoff.base_seconds,
                    "multiplier": step.backoff.multiplier,
                    "max_seconds": step.backoff.max_seconds,
                    "jitter": step.backoff.jitter,
                },
                "skip": self.settings.skips(index),
            })
        };
        let planned = steps
            .iter()
            .enumerate()
            .filter(|(i, _)| !self.plan.is_planner(i16::try_from(*i).unwrap_or_default()));
        Value::Array(planned.map(of).collect()).to_string()
    }
}
