//! `tasker task skip`.

use uuid::Uuid;

use super::order;
use crate::{
    cli::{Session, args::who::Who, error::CliError},
    proto::SkipStepRequest,
};

/// Skip a step that waits or has failed; the task goes on without it
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  tasker task skip 01980f4e-7c1a-7b3e-9d55-0242ac120002 --step send_mail --reason 'the address is gone'

The step counts as done, and the steps after it get null as its result.")]
pub struct Args {
    /// The task
    #[arg(value_name = "TASK_ID")]
    id: Uuid,
    /// The step
    #[arg(long, value_name = "NAME")]
    step: String,
    #[command(flatten)]
    who: Who,
}

pub async fn run(args: Args, session: &Session) -> Result<u8, CliError> {
    let (by, reason) = args.who.resolve();
    let request = SkipStepRequest {
        task_id: args.id.to_string(),
        step: args.step,
        by,
        reason,
    };
    let what = format!("cannot skip a step of {}", args.id);
    let response = session.connect().await?.tasks.skip_step(request).await;
    order::report(
        response
            .map_err(|s| CliError::from_status(&what, &s))?
            .into_inner()
            .task,
        session,
    )
}
