//! `tasker task list`.

use clap::ValueEnum;
use prost_types::Timestamp;

use crate::{
    cli::{
        Session,
        args::when::when,
        error::{CliError, exit},
        list,
        render::{
            human,
            table::Table,
            task,
            term::{Term, clean},
        },
    },
    proto::{ListTasksRequest, Task, TaskState},
};

/// The largest page that a server returns.
const MAX_PAGE_SIZE: i32 = 500;

/// The longest list that one command prints.
const MAX_TASKS: i64 = 100_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum State {
    Pending,
    #[value(alias = "in-progress")]
    InProgress,
    Complete,
    Error,
    Cancelled,
    ResolvedManually,
}

impl From<State> for TaskState {
    fn from(state: State) -> Self {
        match state {
            State::Pending => Self::Pending,
            State::InProgress => Self::InProgress,
            State::Complete => Self::Complete,
            State::Error => Self::Error,
            State::Cancelled => Self::Cancelled,
            State::ResolvedManually => Self::ResolvedManually,
        }
    }
}

/// List tasks, newest first
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tasker task list --state error,cancelled --since 2h
  tasker task list --namespace user_management --task-name user_registration --limit 500
  tasker task list --state error --json | jq -r '.tasks[].task_id'")]
pub struct Args {
    /// Only tasks of this namespace
    #[arg(long)]
    namespace: Option<String>,
    /// Only tasks of templates with this name
    #[arg(long, value_name = "NAME", alias = "name")]
    task_name: Option<String>,
    /// Only tasks of this template version
    #[arg(long, value_name = "SEMVER")]
    version: Option<String>,
    /// Only tasks in one of these states; may be repeated
    #[arg(long = "state", value_delimiter = ',')]
    states: Vec<State>,
    /// Only tasks with this correlation id
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// Only tasks submitted at this time or later: RFC 3339, or how long ago (`90s`, `15m`, `2h`,
    /// `7d`)
    #[arg(long, value_name = "WHEN", value_parser = when)]
    since: Option<Timestamp>,
    /// Only tasks submitted before this time
    #[arg(long, value_name = "WHEN", value_parser = when)]
    until: Option<Timestamp>,
    /// Most tasks to list
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=MAX_TASKS))]
    limit: i64,
}

pub async fn run(args: Args, session: &Session) -> Result<u8, CliError> {
    let limit = usize::try_from(args.limit).expect("clap checked the range");
    let (tasks, more) = collect(args, limit, session).await?;
    list::print(session, "tasks", &tasks, "no task matches", |tasks| {
        table(tasks, &session.term)
    })?;
    if more {
        session.term.say(&format!(
            "older tasks are not listed; raise --limit above {limit} to see them"
        ));
    }
    Ok(exit::OK)
}

/// Fetches pages up to the limit, and reports whether more tasks follow.
async fn collect(
    args: Args,
    limit: usize,
    session: &Session,
) -> Result<(Vec<Task>, bool), CliError> {
    let mut client = session.connect().await?;
    let mut request = ListTasksRequest {
        namespace: args.namespace.unwrap_or_default(),
        task_name: args.task_name.unwrap_or_default(),
        version: args.version.unwrap_or_default(),
        states: args
            .states
            .into_iter()
            .map(|s| TaskState::from(s).into())
            .collect(),
        correlation_id: args.correlation_id.unwrap_or_default(),
        submitted_after: args.since,
        submitted_before: args.until,
        page_size: 0,
        page_token: String::new(),
    };
    let mut tasks = Vec::new();
    loop {
        request.page_size = i32::try_from(limit - tasks.len())
            .unwrap_or(MAX_PAGE_SIZE)
            .min(MAX_PAGE_SIZE);
        let response = client.tasks.list_tasks(request.clone()).await;
        let page = response
            .map_err(|s| CliError::from_status("cannot list the tasks", &s))?
            .into_inner();
        tasks.extend(page.tasks);
        request.page_token = page.next_page_token;
        // A page may have fewer tasks than requested, so only the token shows the end.
        if request.page_token.is_empty() || tasks.len() >= limit {
            return Ok((tasks, !request.page_token.is_empty()));
        }
    }
}

fn table(tasks: &[Task], term: &Term) -> Table {
    let mut table = Table::new([
        "TASK ID",
        "STATE",
        "TEMPLATE",
        "STEPS",
        "SUBMITTED",
        "DURATION",
        "NOTE",
    ]);
    for t in tasks {
        table.row([
            clean(&t.task_id),
            human::paint_task_state(term, t.state()),
            clean(&format!("{}/{}@{}", t.namespace, t.task_name, t.version)),
            format!("{}/{}", t.steps_complete, t.steps_total),
            t.submitted_at.map(human::time).unwrap_or_default(),
            human::elapsed(t.started_at, t.ended_at)
                .map(human::duration)
                .unwrap_or_default(),
            task::outcome(t).unwrap_or_default(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_filter_accepts_each_state() {
        for state in State::value_variants() {
            let word = state.to_possible_value().expect("shown");
            assert_eq!(
                human::task_state(TaskState::from(*state).into()),
                word.get_name()
            );
        }
    }
}
