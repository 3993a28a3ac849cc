//! `tasker analytics …`: where the time of tasks goes.

mod bottlenecks;
mod performance;

use std::time::Duration;

use clap::Subcommand;

use super::{
    Session,
    args::when::when,
    error::{CliError, exit},
    render::human,
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

/// Filters that select the tasks to analyse.
#[derive(Debug, clap::Args)]
struct Which {
    /// Only templates of this namespace
    #[arg(long)]
    namespace: Option<String>,
    /// Only templates with this name
    #[arg(long, value_name = "NAME")]
    task_name: Option<String>,
    /// Only this template version
    #[arg(long, value_name = "SEMVER")]
    version: Option<String>,
    /// Only tasks submitted at this time or later, at most 31 days ago: RFC 3339, or how long ago
    /// (`90s`, `15m`, `2h`, `7d`)
    #[arg(long = "since", value_name = "WHEN", default_value = "24h", value_parser = window, alias = "window")]
    window: i32,
    /// Only so many of the newest tasks, up to 50,000
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    max_tasks: i32,
}

/// The seconds from the given time until now, rounded up to a whole second.
fn window(text: &str) -> Result<i32, String> {
    let ago = when(text)?;
    // Rounded up, so that the window includes a task submitted at exactly that time.
    let nanos = human::since(ago, human::now()).as_nanos();
    let seconds = i32::try_from(nanos.div_ceil(1_000_000_000)).ok();
    // A distance such as `90s` is exact and needs no clock.
    let exact = human::parse_duration(text)
        .map(i32::try_from)
        .transpose()
        .ok()
        .flatten();
    exact
        .or(seconds)
        .filter(|seconds| *seconds > 0)
        .ok_or_else(|| "expected a time in the past".to_owned())
}

/// Reports the window and the number of tasks that the figures cover.
fn say(examined: Option<Examined>, session: &Session) {
    let Some(Examined {
        from,
        to,
        tasks,
        cut,
    }) = examined
    else {
        return;
    };
    let since = human::elapsed(from, to)
        .map(human::duration)
        .unwrap_or_default();
    let more = if cut {
        "; the oldest are omitted (--max-tasks)"
    } else {
        ""
    };
    session
        .term
        .say(&format!("{tasks} tasks of the last {since}{more}"));
}

fn duration(d: Option<prost_types::Duration>) -> String {
    human::duration(
        d.and_then(|d| Duration::try_from(d).ok())
            .unwrap_or_default(),
    )
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

fn failed(status: &tonic::Status) -> CliError {
    CliError::from_status("cannot analyse", status)
}

const OK: u8 = exit::OK;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_accepts_a_duration_or_a_time() {
        assert_eq!((window("90s"), window("31d")), (Ok(90), Ok(31 * 86_400)));
        let now = human::now();
        let ago = |seconds: i64| {
            prost_types::Timestamp {
                seconds: now.seconds - seconds,
                nanos: 0,
            }
            .to_string()
        };
        let hour = window(&ago(3_600)).expect("a time");
        assert!((3_600..3_660).contains(&hour), "{hour}");
        for wrong in ["", "0s", "soon", "-1h", &ago(-3_600)] {
            assert!(window(wrong).is_err(), "{wrong}");
        }
    }
}
