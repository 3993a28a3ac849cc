//! The command line: one file per command, data on stdout, everything else on stderr.

mod analytics;
mod args;
mod bench;
mod circuit;
mod dev;
pub mod error;
mod event;
mod list;
mod migrate;
mod peer;
mod probe;
mod prune;
mod render;
mod serve;
mod server;
mod task;
mod template;
mod worker;

use std::{future::Future, process::ExitCode};

use clap::{Args, ColorChoice, Parser, Subcommand};

use tasker_worker::client::Client;

use self::{
    error::{CliError, exit},
    render::term::Term,
};

/// The command line of `tasker`.
#[derive(Debug, Parser)]
#[command(name = "tasker", version, about, long_about = LONG_ABOUT, after_long_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const LONG_ABOUT: &str = "\
Tasker coordinates microservices: a template describes a workflow, a task runs it, and workers in any language \
perform its steps. All state is in Postgres.";

const AFTER_HELP: &str = "\
A first workflow:
  tasker template register registration.yaml
  tasker task submit user_management/user_registration --context @registration.json --watch
  tasker task list --state error
  tasker task retry --namespace user_management --failed-since 1h --reason 'the service is back'

Data goes to stdout and everything else to stderr. With --json, fields have the names of the protocol, `…_json` \
fields are nested documents without that suffix, enums are words such as `in_progress`, times are RFC 3339, and unset fields are null. Control characters, and those that reorder text, are escaped as \\uXXXX, so that no terminal acts on them.

--namespace, --task-name, --version and --correlation-id select tasks, and --task with an id also selects events; --since and --until bound the time of the submit, and --limit the number shown.

Exit codes:
  0    success; for `task watch`: the task is complete
  1    failure
  2    the command line is wrong
  3    the watched task ended in error, also if an operator resolved it later
  4    the watched task was cancelled
  64   a setting is wrong
  65   an input is wrong: a template, a context, or another value that the server refuses as invalid
  69   the server cannot be reached, or does not answer
  130  Ctrl-C; a watched task continues";

/// Options that every command has.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// URL of the server to call
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "TASKER_SERVER",
        default_value = "http://127.0.0.1:7233"
    )]
    server: String,
    /// Print JSON instead of text: one document, or one line per message for streams
    #[arg(long, global = true)]
    json: bool,
    /// When to use colours; `auto` heeds NO_COLOR
    #[arg(long, global = true, value_name = "MODE", default_value = "auto")]
    color: ColorChoice,
}

#[derive(Debug, Subcommand)]
enum Command {
    // Commands that are the control plane.
    /// Run the control plane on a private Postgres: no set-up at all
    Dev(dev::Command),
    /// Run the control plane on your Postgres
    Server(server::Command),
    /// Bring the database's schema up to date
    Migrate(migrate::Command),
    /// Remove tasks that ended long ago, unused services and retired versions
    Prune(prune::Command),
    /// Measure the throughput and the latency of the whole system on this machine
    Bench(bench::Command),
    /// Run the workers of a bench
    #[command(hide = true)]
    BenchWorker(bench::WorkerCommand),

    // Commands that call it.
    /// Run tasks: submit, inspect, watch, and intervene
    #[command(subcommand)]
    Task(task::Command),
    /// Validate, register, show, pause and retire workflow definitions
    #[command(subcommand)]
    Template(template::Command),
    /// Show how services are protected, set limits, and intervene
    #[command(subcommand)]
    Circuit(circuit::Command),
    /// Show where the time of tasks goes
    #[command(subcommand)]
    Analytics(analytics::Command),
    /// Follow the events of everything that happens
    #[command(subcommand)]
    Events(event::Command),
    /// Show the connected workers
    #[command(subcommand)]
    Worker(worker::Command),
}

/// Parses the command line, runs the command, and reports its error.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let term = Term::detect(cli.global.color);
    match run(cli, term) {
        Ok(code) => code.into(),
        Err(error) => {
            error.say(&term);
            error.code.into()
        }
    }
}

/// Runs one command to its exit code.
fn run(cli: Cli, term: Term) -> Result<u8, CliError> {
    let session = Session {
        global: cli.global,
        term,
    };
    match cli.command {
        Command::Dev(command) => dev::run(&command, &session),
        Command::Server(command) => server::run(&command, &session),
        Command::Migrate(command) => migrate::run(&command, &session),
        Command::Prune(command) => prune::run(&command, &session),
        Command::Bench(command) => talk(&session, bench::run(&command, &session)),
        Command::BenchWorker(command) => talk(&session, bench::run_workers(&command, &session)),
        Command::Task(command) => talk(&session, task::run(command, &session)),
        Command::Template(command) => talk(&session, template::run(command, &session)),
        Command::Circuit(command) => talk(&session, circuit::run(command, &session)),
        Command::Analytics(command) => talk(&session, analytics::run(command, &session)),
        Command::Events(command) => talk(&session, event::run(command, &session)),
        Command::Worker(command) => talk(&session, worker::run(command, &session)),
    }
}

/// Runs a client command on the current thread. If its connection broke, the error describes the
/// peer that listens at the address.
fn talk(
    session: &Session,
    command: impl Future<Output = Result<u8, CliError>>,
) -> Result<u8, CliError> {
    let command = async {
        match command.await {
            // The probe connects again, so it runs only after a failure.
            Err(error) if error.broken.is_some() => {
                Err(probe::explain(error, &session.global.server).await)
            }
            ended => ended,
        }
    };
    // A client waits for one server: a single thread is enough, and starts faster than a pool.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| {
            CliError::new(
                exit::FAILURE,
                format!("cannot start the async runtime: {e}"),
            )
        })?
        .block_on(command)
}

/// The options and the terminal of a client command.
struct Session {
    global: Global,
    term: Term,
}

impl Session {
    async fn connect(&self) -> Result<Client, CliError> {
        Ok(Client::connect(&self.global.server).await?)
    }

    const fn json(&self) -> bool {
        self.global.json
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn command_tree_is_valid() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_option_has_help() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            assert!(command.get_about().is_some(), "`{path}` has no help");
            for arg in command.get_arguments() {
                assert!(
                    arg.get_help().is_some(),
                    "`{path} {}` has no help",
                    arg.get_id()
                );
            }
            if !command.has_subcommands() {
                let help = command
                    .get_after_long_help()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                assert!(help.starts_with("Example"), "`{path}` shows no example");
            }
            command.get_subcommands().for_each(|c| check(c, &path));
        }
        check(&Cli::command(), "");
    }

    /// The visible options of every command, each with the command's path and the kind of its
    /// value.
    fn options(command: &clap::Command, path: &str) -> Vec<(String, String, String)> {
        let path = format!("{path} {}", command.get_name());
        let kind = |arg: &clap::Arg| arg.get_value_names().unwrap_or_default().join(" ");
        let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
        let own =
            shown.filter_map(|arg| Some((path.clone(), arg.get_long()?.to_owned(), kind(arg))));
        own.chain(command.get_subcommands().flat_map(|c| options(c, &path)))
            .collect()
    }

    #[test]
    fn options_of_one_name_have_one_kind_of_value() {
        let options = options(&Cli::command(), "");
        let mut kinds = std::collections::HashMap::new();
        for (path, long, kind) in &options {
            let (first, known) = kinds.entry(long).or_insert((path, kind));
            assert_eq!(*known, kind, "--{long} of `{path}` and of `{first}`");
            let expected = match long.as_str() {
                "task-name" => "NAME",
                "task" => "TASK_ID",
                "since" | "until" => "WHEN",
                "limit" => "N",
                "correlation-id" => "ID",
                "version" => "SEMVER",
                // The rolling window of a circuit is no filter.
                "window" => "SECONDS",
                // Former names of these filters, which are aliases now.
                "name" | "max" | "submitted-since" | "submitted-until" => {
                    panic!("--{long} of `{path}`")
                }
                _ => continue,
            };
            assert_eq!(kind, expected, "--{long} of `{path}`");
        }
        for (kind, long) in [
            ("TASK_ID", &["task"][..]),
            ("WHEN", &["since", "until", "failed-since", "not-before"]),
        ] {
            for (path, found, _) in options.iter().filter(|(_, _, found)| found == kind) {
                assert!(
                    long.contains(&found.as_str()),
                    "`{path}` calls a {kind} --{found}"
                );
            }
        }
    }

    #[test]
    fn former_option_names_are_accepted() {
        let order = ["--reason", "why"];
        for line in [
            &["task", "list", "--name", "n"][..],
            &["events", "tail", "--name", "n"],
            &[&["task", "pause", "--task", "n"][..], &order].concat(),
            &[
                &[
                    "task",
                    "cancel",
                    "--submitted-since",
                    "1h",
                    "--submitted-until",
                    "1m",
                ][..],
                &order,
            ]
            .concat(),
            &["analytics", "performance", "--window", "1h"],
            &["analytics", "bottlenecks", "--window", "1h", "--max", "3"],
        ] {
            Cli::try_parse_from([&["tasker"], line].concat())
                .unwrap_or_else(|e| panic!("{line:?}: {e}"));
        }
    }

    #[test]
    fn reason_is_required_except_for_a_dry_run() {
        let parse = |line: &[&str]| {
            Cli::try_parse_from([&["tasker", "task", "retry"], line].concat()).map(|_| ())
        };
        assert!(parse(&["--namespace", "n", "--dry-run"]).is_ok());
        assert!(parse(&["--namespace", "n"]).is_err_and(|e| e.to_string().contains("--reason")));
    }

    #[test]
    fn absent_server_exits_with_unavailable_and_a_hint() {
        let cli =
            Cli::try_parse_from(["tasker", "--server", "http://127.0.0.1:1", "worker", "list"])
                .expect("valid");
        let error = run(cli, Term::plain()).expect_err("nobody listens on port 1");
        assert_eq!(error.code, exit::UNAVAILABLE);
        assert!(
            error
                .message
                .starts_with("cannot reach the server at http://127.0.0.1:1: "),
            "{error}"
        );
        assert_eq!(
            error.hint.as_deref(),
            Some("start one with `tasker dev`, or set --server")
        );
    }

    #[test]
    fn invalid_server_url_exits_with_config() {
        let cli = Cli::try_parse_from(["tasker", "worker", "list", "--server", "https://h"])
            .expect("valid");
        assert_eq!(
            run(cli, Term::plain()).expect_err("no TLS").code,
            exit::CONFIG
        );
    }
}
