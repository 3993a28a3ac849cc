//! What operators tell one task to do.

use std::time::Duration;

use tokio::sync::oneshot;
use tonic::Status;

use super::{convert, error, task::Tasks};
use crate::{
    domain::order::{MAX_BY_BYTES, MAX_REASON_BYTES, Order},
    engine::settle::Input,
    proto,
};

/// How long an order waits for its commit.
const TIMEOUT: Duration = Duration::from_millis(2_500);

impl Tasks {
    /// Gives an order and returns the task as it is after it.
    pub(super) async fn order(
        &self,
        id: &str,
        order: Order,
        by: String,
        reason: String,
    ) -> Result<proto::Task, Status> {
        let task_id = convert::task_id(id)?;
        check_words(&by, &reason)?;
        let (reply, answer) = oneshot::channel();
        let settled = async {
            self.0.settle.push(Input::Order { task_id, order, by, reason, reply }).await.map_err(error::closed)?;
            answer.await.map_err(|_| error::unavailable("the server is shutting down"))?.map_err(error::order)
        };
        tokio::time::timeout(TIMEOUT, settled)
            .await
            .map_err(|_| error::unavailable("the database did not confirm the order in time"))??;
        let view = self.view(id, false).await?;
        let plan = self.0.catalog.plan(view.task.template_id).await.map_err(|e| error::store(&e))?;
        Ok(convert::task(view.task, &plan))
    }
}

/// Who and why.
pub(super) fn check_words(by: &str, reason: &str) -> Result<(), Status> {
    for (field, text, max) in [("by", by, MAX_BY_BYTES), ("reason", reason, MAX_REASON_BYTES)] {
        if text.len() > max || text.contains('\0') {
            return Err(error::invalid(field, format!("expected at most {max} bytes without NUL")));
        }
    }
    Ok(())
}
