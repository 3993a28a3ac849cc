//! Orders of operators for one task.

use tonic::Status;

use super::{actor::actor, convert, error, find};
use crate::{domain::order::Order, engine::Engine, proto};

/// Gives an order and returns the task after it.
pub async fn give(
    engine: &Engine,
    id: &str,
    order: Order,
    by: String,
    reason: String,
) -> Result<proto::Task, Status> {
    let task_id = convert::task_id(id)?;
    let actor = actor(by, reason)?;
    engine
        .command(task_id, order, actor)
        .await
        .map_err(error::command)?;
    // Read after the commit, so that the answer shows the effect of the order.
    let view = find::task(engine, task_id, false).await?;
    let plan = find::plan(engine, view.task.template_id).await?;
    Ok(convert::task(view.task, &plan))
}
