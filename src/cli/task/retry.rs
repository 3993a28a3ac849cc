//! `tasker task retry`.

use super::order;
use crate::{
    cli::{
        Session,
        args::target::{One, Selection, Target},
        error::CliError,
    },
    proto::{BulkOrder, RetryTaskRequest},
};

/// Retry failed steps: the task, or every task that matches, goes on
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tasker task retry 01980f4e-7c1a-7b3e-9d55-0242ac120002 --reason 'the bank is back'
  tasker task retry 01980f4e-7c1a-7b3e-9d55-0242ac120002 --step charge --fresh --reason 'the card was renewed'
  tasker task retry --namespace shop --error-code BANK_DOWN --failed-since 1h --reason 'the bank is back' --dry-run

Each failed step gets one more attempt; with --fresh, as many as a new one. An order to many tasks reports its progress on stderr and can be stopped with Ctrl-C; the same command then continues with the rest. The exit code is 1 if a task refused the order, because it had changed or its deadline has passed.")]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// Only this step; without it, all failed steps
    #[arg(long, value_name = "NAME", conflicts_with = "Filter")]
    step: Option<String>,
    /// Give each step all attempts of a new one
    #[arg(long)]
    fresh: bool,
}

pub async fn run(args: Args, session: &Session) -> Result<u8, CliError> {
    let One {
        task_id,
        by,
        reason,
    } = match args.target.resolve() {
        Selection::One(one) => one,
        Selection::Many(many) => {
            return order::send(*many, BulkOrder::Retry, args.fresh, session).await;
        }
    };
    let what = format!("cannot retry {task_id}");
    let step = args.step.unwrap_or_default();
    let request = RetryTaskRequest {
        task_id,
        step,
        fresh_attempts: args.fresh,
        by,
        reason,
    };
    let response = session.connect().await?.tasks.retry_task(request).await;
    order::report(
        response
            .map_err(|s| CliError::from_status(&what, &s))?
            .into_inner()
            .task,
        session,
    )
}
