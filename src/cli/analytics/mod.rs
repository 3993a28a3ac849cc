//! `tasker analytics …`: where the time of tasks goes.

mod bottlenecks;
mod performance;

use std::time::Duration;

use clap::Subcommand;

use super::{
    Session,
    error::{CliError, exit},
    human,
};
use crate::proto::Examined;

#[derive(Debug, Subcommand)]
pub enum Command {
    Performance(performance::Args),
    Bottlenecks(bottlenecks::Args),
}

pub async fn run(command: Command, session: &Session) -> Result<u8, CliError> {
    match command {
        Command::Performance(args) => performance::run(args, session).await,
        Command::Bottlenecks(args) => bottlenecks::run(args, session).await,
    }
}

/// Which tasks are looked at.
#[derive(Debug, clap::Args)]
struct Which {
    /// Only templates of this namespace
    #[arg(long)]
    namespace: Option<String>,
    /// Only templates with this name
    #[arg(long, value_name = "NAME")]
    task_name: Option<String>,
    /// Only this template version
    #[arg(long)]
    version: Option<String>,
    /// Only tasks submitted in the last so many s, m, h or d; up to 31d
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = window)]
    window: i32,
    /// Only so many of the newest tasks, up to 50,000
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    max_tasks: i32,
}

fn window(text: &str) -> Result<i32, String> {
    let seconds = human::parse_duration(text).and_then(|seconds| i32::try_from(seconds).ok());
    seconds.filter(|seconds| *seconds > 0).ok_or_else(|| "expected a time such as 90s, 15m, 24h or 7d".to_owned())
}

/// Of what it is true.
fn say(examined: Option<Examined>, session: &Session) {
    let Some(Examined { from, to, tasks, cut }) = examined else { return };
    let since = human::elapsed(from, to).map(human::duration).unwrap_or_default();
    let more = if cut { "; there were more, and the oldest are left out (--max-tasks)" } else { "" };
    session.term.say(&format!("{tasks} tasks of the last {since}{more}"));
}

fn duration(d: Option<prost_types::Duration>) -> String {
    human::duration(d.and_then(|d| Duration::try_from(d).ok()).unwrap_or_default())
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

fn failed(status: &tonic::Status) -> CliError {
    CliError::from_status("cannot analyse", status)
}

const OK: u8 = exit::OK;
