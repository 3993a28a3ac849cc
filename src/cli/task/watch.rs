//! `tasker task watch`: follows a task to its end.

use std::time::Duration;

use tasker_worker::client::Client;
use tokio::{sync::mpsc, time::MissedTickBehavior};
use uuid::Uuid;

use super::updates::{self, Update};
use crate::{
    cli::{
        Session,
        error::{CliError, exit},
        render::watch::View,
    },
    proto::{Task, TaskState},
};

/// Interval at which the durations on a terminal are refreshed.
const REFRESH: Duration = Duration::from_millis(500);

/// Wait for a task, and show its progress
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tasker task watch 01980f4e-7c1a-7b3e-9d55-0242ac120002
  tasker task watch 01980f4e-7c1a-7b3e-9d55-0242ac120002 --json | jq --unbuffered .task.state

On a terminal the graph is redrawn in place; elsewhere every change is one line. The watch ends with the task: with 0 if it is complete, 3 if it ended in error, also if an operator resolved it later, and 4 if it was cancelled. Ctrl-C ends the watch and not the task. The watch reconnects when the server restarts.")]
pub struct Args {
    /// The task
    #[arg(value_name = "TASK_ID")]
    id: Uuid,
}

pub async fn run(args: Args, session: &Session) -> Result<u8, CliError> {
    watch(session.connect().await?, &args.id.to_string(), session).await
}

/// Shows the task until it has ended; the exit code depends on its final state.
pub async fn watch(client: Client, task_id: &str, session: &Session) -> Result<u8, CliError> {
    let (sender, mut updates) = mpsc::channel(16);
    let follower = tokio::spawn(updates::follow(client, task_id.to_owned(), sender));
    let mut view = View::new(&session.term, session.json());
    let mut refresh = tokio::time::interval(REFRESH);
    // After a stop of the process, missed refreshes are not made up for.
    refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    let end = loop {
        tokio::select! {
            // First, so that Ctrl-C takes effect even before the first update.
            biased;
            _ = &mut interrupted => {
                session.term.say(&format!(
                    "\nthe task continues: `tasker task watch {task_id}` watches it again, and \
                     `tasker task cancel {task_id} --reason WHY` cancels it"
                ));
                break Ok(exit::INTERRUPTED);
            }
            update = updates.recv() => match update {
                Some(Update::State(state)) => {
                    view.update(&state)?;
                    if let Some(code) = state.task.as_ref().and_then(exit_code) {
                        break Ok(code);
                    }
                }
                Some(Update::Lost(why)) => view.lost(&why)?,
                Some(Update::Failed(error)) => break Err(error),
                None => break Err(CliError::new(exit::FAILURE, "the watch ended before the task did")),
            },
            _ = refresh.tick() => view.refresh()?,
        }
    };
    // It may be waiting for its next attempt to reconnect.
    follower.abort();
    end
}

fn exit_code(task: &Task) -> Option<u8> {
    match task.state() {
        TaskState::Complete => Some(exit::OK),
        TaskState::Error | TaskState::ResolvedManually => Some(exit::TASK_ERROR),
        TaskState::Cancelled => Some(exit::TASK_CANCELLED),
        TaskState::Pending | TaskState::InProgress | TaskState::Unspecified => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_code_of_each_end_differs_and_a_running_task_has_none() {
        let code = |state: TaskState| {
            exit_code(&Task {
                state: state.into(),
                ..Task::default()
            })
        };
        assert_eq!(code(TaskState::Complete), Some(0));
        assert_eq!(code(TaskState::Error), Some(3));
        assert_eq!(code(TaskState::Cancelled), Some(4));
        assert_eq!(
            (code(TaskState::Pending), code(TaskState::InProgress)),
            (None, None)
        );
    }
}
