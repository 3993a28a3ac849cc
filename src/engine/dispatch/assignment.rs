//! An attempt to be sent to a worker, with everything that its handler needs.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::Value;
use uuid::Uuid;

use crate::{
    domain::lease::Lease,
    engine::{
        cache::payloads::Payloads,
        hash::HashMap,
        plan::{compiled::Plan, task_plan::TaskPlan},
    },
    store::pipeline::{Claimed, TaskInput, WantedInputs},
};

/// One attempt of one step.
#[derive(Clone)]
pub struct Assignment {
    pub lease: Lease,
    pub worker_id: Uuid,
    pub lane_id: i32,
    pub plan: Arc<Plan>,
    pub attempt: i32,
    pub charged: i16,
    pub deadline_at: SystemTime,
    pub timeout: Duration,
    /// JSON object: the task's annotations, overridden by the step's.
    pub annotations: String,
    pub retry_limit: u32,
    /// JSON, if it differs from the template's.
    pub handler_config: Option<String>,
    /// For a planner: the steps to plan, as JSON.
    pub planned_steps: String,
    /// The task's documents.
    pub task: Arc<TaskInput>,
    /// Step name and JSON of each input; null for a skipped step.
    pub results: Vec<(String, Arc<str>)>,
}

impl Assignment {
    /// Its approximate size on the wire, in bytes, at most a little too small.
    pub fn bytes(&self) -> usize {
        let results: usize = self
            .results
            .iter()
            .map(|(name, json)| name.len() + json.len())
            .sum();
        let config = self.handler_config.as_ref().map_or(0, String::len);
        results
            + config
            + self.task.context.len()
            + self.annotations.len()
            + self.planned_steps.len()
    }
}

/// Adds the documents that a step needs to the ones the transaction reads.
pub fn want(inputs: &mut WantedInputs, plan: &Plan, task_id: Uuid, revision: i32, step: i16) {
    inputs.tasks.push((task_id, revision));
    inputs.results.extend(
        plan.inputs_of(step)
            .iter()
            .map(|input| (task_id, i16::from(*input))),
    );
}

/// Combines claims with their documents. A claim without its documents is left out, which cannot
/// happen: the transaction has read every document that was not cached.
pub fn assemble(
    claimed: Vec<Claimed>,
    known: &Payloads,
    plans: &HashMap<i32, Arc<Plan>>,
    now: SystemTime,
) -> Vec<Assignment> {
    claimed
        .into_iter()
        .filter_map(|claim| {
            let plan = Arc::clone(plans.get(&claim.template_id)?);
            let task = known.tasks.get(&claim.task_id)?;
            let effective = TaskPlan::of(&plan, task.settings.as_deref());
            let step = effective.step(claim.step)?;
            let is_planner = plan.is_planner(claim.step);
            let results = plan
                .inputs_of(claim.step)
                .iter()
                .filter(|a| !plan.is_planner(**a))
                .filter_map(|a| {
                    let json = known.results.get(&(claim.task_id, i16::from(*a)))?;
                    Some((
                        plan.template.steps.get(usize::from(*a))?.name.clone(),
                        Arc::clone(json),
                    ))
                })
                .collect();
            Some(Assignment {
                lease: Lease {
                    task_id: claim.task_id,
                    step: claim.step,
                    nonce: claim.nonce,
                },
                worker_id: claim.worker_id,
                lane_id: claim.lane_id,
                attempt: claim.attempt,
                charged: claim.charged,
                deadline_at: claim.deadline_at,
                timeout: claim.deadline_at.duration_since(now).unwrap_or_default(),
                annotations: merge_annotations(&task.annotations, &step.annotations),
                retry_limit: step.retry_limit,
                handler_config: match &step {
                    Cow::Borrowed(_) => None,
                    Cow::Owned(step) => {
                        Some(Value::Object(step.handler_config.clone()).to_string())
                    }
                },
                planned_steps: if is_planner {
                    effective.planned_steps()
                } else {
                    String::new()
                },
                task: Arc::clone(task),
                results,
                plan,
            })
        })
        .collect()
}

/// The task's annotations, overridden by the step's.
pub fn merge_annotations(task: &str, step: &serde_json::Map<String, Value>) -> String {
    if step.is_empty() {
        return task.to_owned();
    }
    match serde_json::from_str(task) {
        Ok(Value::Object(mut all)) => {
            all.extend(step.clone());
            Value::Object(all).to_string()
        }
        _ => Value::Object(step.clone()).to_string(),
    }
}
