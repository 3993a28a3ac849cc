//! `tasker task cancel`.

use super::order;
use crate::{
    cli::{
        Session,
        args::target::{One, Selection, Target},
        error::CliError,
    },
    proto::{BulkOrder, CancelTaskRequest},
};

/// Cancel a task, or many: running steps are asked to stop, and the others never start
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tasker task cancel 01980f4e-7c1a-7b3e-9d55-0242ac120002 --reason 'the customer withdrew'
  tasker task cancel --namespace shop --since 10m --reason 'sent twice' --dry-run

The task records the author and the reason. Cancelling a cancelled task changes nothing; a task that has ended otherwise is refused with exit code 1.")]
pub struct Args {
    #[command(flatten)]
    target: Target,
}

pub async fn run(args: Args, session: &Session) -> Result<u8, CliError> {
    let One {
        task_id,
        by,
        reason,
    } = match args.target.resolve() {
        Selection::One(one) => one,
        Selection::Many(many) => {
            return order::send(*many, BulkOrder::Cancel, false, session).await;
        }
    };
    let what = format!("cannot cancel {task_id}");
    let response = session
        .connect()
        .await?
        .tasks
        .cancel_task(CancelTaskRequest {
            task_id,
            by,
            reason,
        })
        .await;
    order::report(
        response
            .map_err(|s| CliError::from_status(&what, &s))?
            .into_inner()
            .task,
        session,
    )
}
