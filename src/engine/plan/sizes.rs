//! The sizes of assignments, known before they are claimed.
//!
//! A task's row has the total size of its documents. While that is small, nothing else is computed.
//! Beyond, the results of a step's own inputs are added up: from the document cache, and otherwise
//! from lengths read from the database.

use tasker_template::{StepIndex, StepTemplate};

use super::{compiled::Plan, task_plan::TaskPlan};
use crate::domain::size::{MIN_ASSIGNMENT_BYTES, of};

/// The position that stands for the documents of the task itself.
pub const OF_TASK: i16 = -1;

/// Bytes of an assignment without documents and names: ids, times, tags and lengths.
const ENVELOPE: usize = 2 << 10;
/// Bytes of a result without its name and text.
const ENTRY: usize = 24;

/// The size of each step's assignment without the documents of its task, in bytes.
pub fn fixed(plan: &Plan) -> Vec<i32> {
    let t = &plan.template;
    let of_all = ENVELOPE + t.namespace.len() + t.task_name.len() + t.version.to_string().len();
    let step = |(i, s): (StepIndex, &StepTemplate)| {
        let config = plan
            .handler_configs
            .get(usize::from(i))
            .map_or(0, String::len);
        let notes = if s.annotations.is_empty() {
            0
        } else {
            serde_json::Value::Object(s.annotations.clone())
                .to_string()
                .len()
        };
        let names: usize = plan
            .inputs(i)
            .iter()
            .filter_map(|a| Some(t.steps.get(usize::from(*a))?.name.len() + ENTRY))
            .sum();
        let planned = if plan.is_planner(i) {
            TaskPlan::of(plan, None).planned_steps().len()
        } else {
            0
        };
        of(of_all
            + 2 * s.name.len()
            + s.handler.len()
            + s.service.len()
            + config
            + notes
            + names
            + planned)
    };
    plan.graph.steps().zip(&t.steps).map(step).collect()
}

/// An upper bound of a step's assignment with `documents` bytes of documents; 0 if every worker
/// takes it.
pub fn bound(plan: &Plan, step: i16, documents: i32) -> i32 {
    let whole = plan.fixed(step).saturating_add(documents);
    if whole <= MIN_ASSIGNMENT_BYTES {
        0
    } else {
        whole
    }
}
