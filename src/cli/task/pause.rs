//! `tasker task pause` and `tasker task resume`.

use super::order;
use crate::{
    cli::{
        Session,
        args::target::{One, Selection, Target},
        error::CliError,
    },
    proto::{BulkOrder, PauseTaskRequest, ResumeTaskRequest},
};

/// Pause a task, or many: no further step starts, and running steps go on to their end
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tasker task pause 01980f4e-7c1a-7b3e-9d55-0242ac120002 --reason 'the order is being checked'
  tasker task pause --namespace shop --task-name checkout --version 1.2.0 --reason 'it charges twice'

The pause lasts until an operator resumes the task, across restarts. With a filter, the present tasks are paused, one by one; `tasker template pause` also pauses future ones.")]
pub struct Pause {
    #[command(flatten)]
    target: Target,
}

/// Resume a paused task, or many
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tasker task resume 01980f4e-7c1a-7b3e-9d55-0242ac120002 --reason 'the order is right'
  tasker task resume --namespace shop --task-name checkout --reason 'repaired'

A pause of the whole template or namespace is lifted by `tasker template resume`.")]
pub struct Resume {
    #[command(flatten)]
    target: Target,
}

pub async fn pause(args: Pause, session: &Session) -> Result<u8, CliError> {
    let One {
        task_id,
        by,
        reason,
    } = match args.target.resolve() {
        Selection::One(one) => one,
        Selection::Many(many) => return order::send(*many, BulkOrder::Pause, false, session).await,
    };
    let what = format!("cannot pause {task_id}");
    let response = session
        .connect()
        .await?
        .tasks
        .pause_task(PauseTaskRequest {
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

pub async fn resume(args: Resume, session: &Session) -> Result<u8, CliError> {
    let One {
        task_id,
        by,
        reason,
    } = match args.target.resolve() {
        Selection::One(one) => one,
        Selection::Many(many) => {
            return order::send(*many, BulkOrder::Resume, false, session).await;
        }
    };
    let what = format!("cannot resume {task_id}");
    let response = session
        .connect()
        .await?
        .tasks
        .resume_task(ResumeTaskRequest {
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
