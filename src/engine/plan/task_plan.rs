//! The steps of one task: the template's, with the changes of overrides and a planner.

use std::borrow::Cow;

use serde_json::{Value, json};
use tasker_template::{Settings, StepIndex, StepTemplate};

use super::compiled::Plan;
use crate::domain::progress::Fate;

/// A plan with the settings of one task.
pub struct TaskPlan<'a> {
    pub plan: &'a Plan,
    pub settings: Settings,
}

impl<'a> TaskPlan<'a> {
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
        let index = StepIndex::try_from(step).ok()?;
        match self.settings.step(&self.plan.template, index) {
            Some(changed) => Some(Cow::Owned(changed)),
            None => self.plan.step(step).map(Cow::Borrowed),
        }
    }

    /// The time limit of a step's attempts, if it differs from the template's.
    pub fn timeout(&self, step: u16) -> Option<std::time::Duration> {
        let index = StepIndex::try_from(step).ok()?;
        let changed = self.settings.step(&self.plan.template, index)?.timeout;
        let own = self.plan.template.steps.get(usize::from(index))?.timeout;
        (changed != own).then_some(changed)
    }

    /// The fate of a step that no condition decides.
    pub fn unconditional(&self, step: u16) -> Option<Fate> {
        if StepIndex::try_from(step).is_ok_and(|step| self.settings.skips(step)) {
            return Some(Fate::Skipped);
        }
        let is_conditional = self
            .plan
            .template
            .steps
            .get(usize::from(step))
            .is_some_and(|step| step.condition.is_some());
        (!is_conditional).then_some(Fate::Runs)
    }

    /// The settings of a step that differ from the template's, and the origin of each.
    pub fn origins(&self, step: i16) -> Vec<(String, String)> {
        StepIndex::try_from(step)
            .map(|step| self.settings.origins(&self.plan.template, step))
            .unwrap_or_default()
    }

    /// The steps as shown to a planner: a JSON array.
    pub fn planned_steps(&self) -> String {
        let steps = &self.plan.template.steps;
        let names = |parents: &[StepIndex]| -> Vec<&str> {
            let planned = parents.iter().filter(|p| !self.plan.is_planner(**p));
            planned
                .filter_map(|p| Some(steps.get(usize::from(*p))?.name.as_str()))
                .collect()
        };
        let of = |(index, template): (StepIndex, &StepTemplate)| {
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
        let all = self.plan.graph.steps().zip(steps);
        let planned = all.filter(|(index, _)| !self.plan.is_planner(*index));
        Value::Array(planned.map(of).collect()).to_string()
    }
}
