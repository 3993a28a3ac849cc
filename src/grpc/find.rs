//! Looks up what a request names.

use std::sync::Arc;

use tonic::{Code, Status};
use uuid::Uuid;

use super::error;
use crate::{
    engine::{Engine, Plan},
    store::task::{self as tasks, Part, TaskView},
};

/// A task with its steps.
pub async fn task(engine: &Engine, task_id: Uuid, with_attempts: bool) -> Result<TaskView, Status> {
    tasks::get(engine.reads(), task_id, with_attempts, Part::default())
        .await
        .map_err(|e| error::store(&e))?
        .ok_or_else(|| no_task(task_id))
}

pub fn no_task(task_id: Uuid) -> Status {
    error::status(
        Code::NotFound,
        "TASK_NOT_FOUND",
        format!("there is no task {task_id}"),
    )
}

/// The template of a stored task.
pub async fn plan(engine: &Engine, template_id: i32) -> Result<Arc<Plan>, Status> {
    engine.plan(template_id).await.map_err(|e| error::store(&e))
}

/// The ids of the templates that a filter selects, which include those that other servers have
/// registered before this call. `None` selects every template; names that match none give an empty
/// list, which selects no task.
pub async fn template_ids(
    engine: &Engine,
    namespace: &str,
    task_name: &str,
    version: Option<&semver::Version>,
) -> Result<Option<Vec<i32>>, Status> {
    if namespace.is_empty() && task_name.is_empty() && version.is_none() {
        return Ok(None);
    }
    let plans = engine
        .templates(namespace, task_name)
        .await
        .map_err(|e| error::store(&e))?;
    let fitting = plans
        .iter()
        .filter(|plan| version.is_none_or(|v| *v == plan.template.version));
    Ok(Some(fitting.map(|plan| plan.template_id).collect()))
}
