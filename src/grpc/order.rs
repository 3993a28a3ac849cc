//! Orders of operators for one task.

use std::time::Duration;

use tokio::sync::oneshot;
use tonic::Status;

use super::{actor::actor, convert, error, find};
use crate::{
    domain::order::Order,
    engine::{Engine, decide::input::Input},
    proto,
    store::service::Actor,
};

/// Limit on the wait of an order for its commit.
const TIMEOUT: Duration = Duration::from_millis(2_500);

/// Gives an order and returns the task after it.
pub async fn give(
    engine: &Engine,
    id: &str,
    order: Order,
    by: String,
    reason: String,
) -> Result<proto::Task, Status> {
    let task_id = convert::task_id(id)?;
    let Actor { by, reason } = actor(by, reason)?;
    let (reply, answer) = oneshot::channel();
    // One limit for both waits: for space in the queue, and for the commit.
    let settled = async {
        let input = Input::Order {
            task_id,
            order,
            by,
            reason,
            reply,
        };
        engine.settle.push(input).await.map_err(error::closed)?;
        answer
            .await
            .map_err(|_| error::unavailable("the server is shutting down"))?
            .map_err(error::order)
    };
    // After the limit the order stays queued, and may still be stored.
    tokio::time::timeout(TIMEOUT, settled)
        .await
        .map_err(|_| error::unavailable("the database did not confirm the order in time"))??;
    // Read after the commit, so that the answer shows the effect of the order.
    let view = find::task(engine, task_id, false).await?;
    let plan = find::plan(engine, view.task.template_id).await?;
    Ok(convert::task(view.task, &plan))
}
