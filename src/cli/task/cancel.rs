//! `tasker task cancel`.

use serde_json::json;
use uuid::Uuid;

use crate::{
    cli::{
        Session,
        error::{CliError, exit},
        who::Who,
    },
    json,
    proto::CancelTaskRequest,
};

/// Stop a task: steps that run are told to end, and the others never start
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  tasker task cancel 01980f4e-7c1a-7b3e-9d55-0242ac120002 --reason 'the customer withdrew'

Who and why are kept with the task. Cancelling a cancelled task changes nothing; a task that ended otherwise is left \
as it is, and the exit code is 1.")]
pub struct Args {
    /// The task
    #[arg(value_name = "TASK_ID")]
    id: Uuid,
    #[command(flatten)]
    who: Who,
}

pub async fn run(args: Args, session: &Session) -> Result<u8, CliError> {
    let (by, reason) = args.who.resolve()?;
    let request = CancelTaskRequest { task_id: args.id.to_string(), by, reason };
    let response = session.connect().await?.tasks.cancel_task(request).await;
    let what = format!("cannot cancel {}", args.id);
    let task = response.map_err(|s| CliError::from_status(&what, &s))?.into_inner().task.unwrap_or_default();
    if session.json() {
        session.term.json(&json!({"task": json::value(&task)}))?;
    } else {
        session.term.say(&format!(
            "{} is cancelled, with {}/{} steps complete",
            args.id, task.steps_complete, task.steps_total
        ));
    }
    Ok(exit::OK)
}
