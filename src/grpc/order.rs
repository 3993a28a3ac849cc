//! Orders of operators for one task.

use std::time::Duration;

use tokio::sync::oneshot;
use tonic::Status;

use super::{convert, error, task::Tasks};
use crate::{
    domain::order::{MAX_BY_BYTES, MAX_REASON_BYTES, Order},
    engine::{decide::input::Input, submission::request::Violated},
    proto,
    store::service::Actor,
};

/// Limit on the wait of an order for its commit.
const TIMEOUT: Duration = Duration::from_millis(2_500);

impl Tasks {
    /// Gives an order and returns the task after it.
    pub(super) async fn order(
        &self,
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
            self.0
                .settle
                .push(Input::Order {
                    task_id,
                    order,
                    by,
                    reason,
                    reply,
                })
                .await
                .map_err(error::closed)?;
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
        let view = self.view(id, false).await?;
        let plan = self
            .0
            .context
            .templates
            .plan(view.task.template_id)
            .await
            .map_err(|e| error::store(&e))?;
        Ok(convert::task(view.task, &plan))
    }
}

/// An operator and a reason, both required.
pub(super) fn actor(by: String, reason: String) -> Result<Actor, Status> {
    check_words(&by, &reason, 1)?;
    Ok(Actor { by, reason })
}

/// The caller of a dry run: nothing is recorded, so both texts may be empty.
pub(super) fn inquirer(by: String, reason: String) -> Result<Actor, Status> {
    check_words(&by, &reason, 0)?;
    Ok(Actor { by, reason })
}

/// Checks the actor and the reason; blank text counts as empty. One answer names all that is wrong.
fn check_words(by: &str, reason: &str, min: usize) -> Result<(), Status> {
    let from = if min == 0 {
        "at most".to_owned()
    } else {
        format!("{min} to")
    };
    // Postgres cannot store NUL, which no other check of these texts refuses.
    let wrong: Vec<Violated> = [
        ("by", by, MAX_BY_BYTES),
        ("reason", reason, MAX_REASON_BYTES),
    ]
    .into_iter()
    .filter(|(_, text, max)| text.len() > *max || text.contains('\0') || text.trim().len() < min)
    .map(|(field, _, max)| Violated {
        field: field.to_owned(),
        message: format!("expected {from} {max} bytes without NUL"),
    })
    .collect();
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(error::violations(&wrong))
    }
}
