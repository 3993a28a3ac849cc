//! `tasker bench`, and the process that runs its workers.

use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    Session,
    error::{CliError, exit},
    render::table::Table,
};
use crate::bench::{self, Report, Settings};

/// Options of `tasker bench`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tasker bench
  tasker bench --seconds 30 --preload 1000000 --waiting 100000 --idle --json
  tasker bench --subscribers 100
  tasker bench --attach --server http://10.0.0.5:7233 --database-url postgres://tasker@10.0.0.6/tasker

It starts a private Postgres that syncs every commit, a server, and a process with workers whose handlers do nothing,
runs five-step chains through them, and compares with the same row changes by bare SQL. Every step is accounted for: the exit
code is 1 if a step was lost or done twice, or if a subscriber missed an event or received it twice. With --json the table goes to stderr, and stdout is one JSON object.")]
pub struct Command {
    /// Length of each throughput round, 0.2 to 600; the other phases take a third of it
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    seconds: Duration,
    /// Workers, all in one process, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    workers: u16,
    /// Steps that each worker runs at once, 1 to 10000
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    slots: u16,
    /// Most chains in flight; by default half as many as there are slots
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(50..=1_000_000))]
    in_flight: Option<u64>,
    /// Store this many finished tasks first, and compare with the empty database
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..=100_000_000))]
    preload: i64,
    /// Store this many tasks first that wait for a worker or a retry
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..=10_000_000))]
    waiting: i64,
    /// Measure also the cost of this many subscribers, 0 to 1000; each must receive every event
    /// exactly once
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=1_000))]
    subscribers: u16,
    /// Measure also the cost of an idle system with 50 workers
    #[arg(long)]
    idle: bool,
    /// Measure also the cost of a limit that is as high as the workers' slots
    #[arg(long)]
    limited: bool,
    /// Measure on this Postgres, and leave the tasks there, instead of starting a private one
    #[arg(long, value_name = "URL", hide_env_values = true)]
    database_url: Option<String>,
    /// Schema that holds the tables
    #[arg(long, value_name = "NAME", default_value = "tasker")]
    schema: String,
    /// Measure the server that --server names, which must use --database-url, instead of starting
    /// one
    #[arg(long, requires = "database_url")]
    attach: bool,
    /// A setting of the private Postgres; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = setting, conflicts_with = "database_url")]
    postgres_setting: Vec<(String, String)>,
}

/// Options of the process that runs the workers.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  tasker bench-worker --server http://127.0.0.1:7233 --workers 2 --slots 1000")]
pub struct WorkerCommand {
    /// Workers in this process
    #[arg(long, value_name = "N", default_value_t = 2)]
    workers: usize,
    /// Steps that each worker runs at once
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    slots: usize,
}

/// Runs the benchmark and prints its report.
pub async fn run(command: &Command, session: &Session) -> Result<u8, CliError> {
    if cfg!(debug_assertions) {
        session
            .term
            .say("this build is not optimised: its figures are not meaningful");
    }
    let settings = command.settings(session);
    let say = |text: &str| session.term.say(text);
    let report = tokio::select! {
        report = bench::run(&settings, &say) => report.map_err(|e| failed(&e))?,
        interrupted = interrupted() => return interrupted,
    };
    // Also the figures of a failed run are printed, since they help to find the cause.
    print(&report, session)?;
    Ok(if report.is_right() {
        exit::OK
    } else {
        exit::FAILURE
    })
}

/// Runs the workers until stdin is closed.
pub async fn run_workers(command: &WorkerCommand, session: &Session) -> Result<u8, CliError> {
    let server = &session.global.server;
    bench::worker::run(server, command.workers, command.slots)
        .await
        .map_err(|e| failed(&e))?;
    Ok(exit::OK)
}

impl Command {
    fn settings(&self, session: &Session) -> Settings {
        Settings {
            database_url: self.database_url.clone(),
            schema: self.schema.clone(),
            postgres_settings: self.postgres_setting.clone(),
            server: self.attach.then(|| session.global.server.clone()),
            time: self.seconds,
            workers: self.workers.into(),
            slots: self.slots.into(),
            // A chain has one step in flight, so with half as many chains as slots a step seldom
            // waits for one.
            in_flight: self
                .in_flight
                .unwrap_or(u64::from(self.workers) * u64::from(self.slots) / 2),
            preload: self.preload,
            waiting: self.waiting,
            subscribers: self.subscribers.into(),
            idle: self.idle,
            limited: self.limited,
        }
    }
}

fn print(report: &Report, session: &Session) -> Result<(), CliError> {
    let mut table = Table::new(["WHAT", "MEASURED", "BUDGET"]);
    for (what, value, budget) in report.rows() {
        table.row([what, value, budget.to_owned()]);
    }
    let table = table.render(&session.term);
    for problem in &report.golden_problems {
        session.term.say(problem);
    }
    if session.json() {
        session.term.say(&table);
        session.term.json_line(&report.to_json())?;
    } else {
        session.term.data(&table)?;
    }
    Ok(())
}

/// Resolves on SIGTERM or SIGINT, so that the started processes are stopped and not left behind.
async fn interrupted() -> Result<u8, CliError> {
    let failed =
        |e: std::io::Error| CliError::new(exit::FAILURE, format!("cannot listen for signals: {e}"));
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::select! {
        _ = term.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(exit::INTERRUPTED)
}

fn seconds(text: &str) -> Result<Duration, String> {
    let valid = text.parse().ok().filter(|s| (0.2..=600.0).contains(s));
    valid
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "expected 0.2 to 600".into())
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn failed(error: &bench::Error) -> CliError {
    CliError::new(exit::FAILURE, error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::cli::Cli;

    #[test]
    fn subscribers_over_the_limit_of_a_server_are_refused() {
        let parse = |count: &str| Cli::try_parse_from(["tasker", "bench", "--subscribers", count]);
        assert!(parse("0").is_ok() && parse("1000").is_ok());
        let refused = parse("1001").err().map(|error| error.to_string());
        assert!(
            refused.is_some_and(|text| text.contains("--subscribers") && text.contains("0..=1000"))
        );
    }
}
