//! One command of an operator about one task.

use std::time::Duration;

use tokio::sync::oneshot;
use uuid::Uuid;

use crate::{
    domain::order::{Order, OrderError},
    engine::{
        batch::queue::{Closed, SettleQueue},
        decide::input::Input,
    },
    store::service::Actor,
};

/// Limit on the wait of a command for its commit.
const TIMEOUT: Duration = Duration::from_millis(2_500);

/// Why a command was not confirmed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error(transparent)]
    Refused(#[from] OrderError),
    /// The command stays queued, and may still be stored.
    #[error("the database did not confirm the order in time")]
    Late,
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// The answer to a queued command.
pub(super) type Answer = oneshot::Receiver<Result<(), OrderError>>;

/// Applies a command and returns after its commit.
pub async fn command(
    settle: &SettleQueue,
    task_id: Uuid,
    order: Order,
    actor: Actor,
) -> Result<(), CommandError> {
    // One limit for both waits: for space in the queue, and for the commit.
    let settled = async {
        let answer = push(settle, task_id, order, actor).await?;
        answered(answer).await
    };
    tokio::time::timeout(TIMEOUT, settled)
        .await
        .unwrap_or(Err(CommandError::Late))
}

/// Queues a command.
pub(super) async fn push(
    settle: &SettleQueue,
    task_id: Uuid,
    order: Order,
    Actor { by, reason }: Actor,
) -> Result<Answer, Closed> {
    let (reply, answer) = oneshot::channel();
    let input = Input::Order {
        task_id,
        order,
        by,
        reason,
        reply,
    };
    settle.push(input).await?;
    Ok(answer)
}

pub(super) async fn answered(answer: Answer) -> Result<(), CommandError> {
    // The settle loop ends without an answer only when the server shuts down.
    Ok(answer.await.map_err(|_| Closed)??)
}
