//! Shared by `server` and `dev`: settings, the log, signals, and the wait for a database.

use std::{future::Future, net::SocketAddr, str::FromStr, time::Duration};

use clap::Args;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tracing_subscriber::EnvFilter;

use super::{
    Session,
    args::listen::address,
    error::{CliError, exit},
    render::human,
};
use crate::{
    server::{self, ServerConfig, ServerError},
    store::{Db, StoreError, migrate, server as servers},
    telemetry::{self, Telemetry, TelemetryError},
};

/// How long a starting server waits for its database.
const DATABASE_WAIT: Duration = Duration::from_secs(30);
/// The bounds of `--lease-seconds`.
const LEASE_SECONDS: std::ops::RangeInclusive<f64> = 1.0..=300.0;
/// The bounds of `--retain` and `--older-than`, in days; the lower one is an hour.
const RETAIN_DAYS: u64 = 3_650;
/// The bounds of `--drain-seconds`.
const DRAIN_SECONDS: std::ops::RangeInclusive<f64> = 0.0..=3_600.0;

/// Settings of the listening side.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Address of the one port for gRPC, reflection, health and HTTP: `127.0.0.1:7233`,
    /// `localhost:7233` which means the same, `[::1]:7233`, or `:7233` for every address of this
    /// machine, IPv6 and IPv4; port 0 picks a free one. There is no authentication: listen
    /// elsewhere than on loopback only in a network that you trust
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "TASKER_LISTEN",
        default_value = "127.0.0.1:7233"
    )]
    listen: String,
    /// How long a worker may be silent before its steps are given to others, 1 to 300
    #[arg(
        long,
        value_name = "SECONDS",
        env = "TASKER_LEASE_SECONDS",
        default_value = "10"
    )]
    lease_seconds: String,
    /// How long a shutdown waits for running steps, 0 to 3600
    #[arg(
        long,
        value_name = "SECONDS",
        env = "TASKER_DRAIN_SECONDS",
        default_value = "30"
    )]
    drain_seconds: String,
    /// Origin whose web pages may call the server, such as `https://ops.example.com`; may be given
    /// several times. Pages of other origins are refused
    #[arg(
        long,
        value_name = "ORIGIN",
        env = "TASKER_CORS_ORIGIN",
        value_delimiter = ','
    )]
    cors_origin: Vec<String>,
    /// Name by which HTTP clients may call the server, such as `tasker.example.com` or
    /// `*.example.com`; may be given several times. Addresses, localhost and names without a dot
    /// always work, and native gRPC works by any name
    #[arg(
        long,
        value_name = "HOST",
        env = "TASKER_ALLOWED_HOST",
        value_delimiter = ','
    )]
    allowed_host: Vec<String>,
    /// How long finished tasks are kept, with their steps, events and idempotency keys, 1h to
    /// 3650d, or `forever`
    #[arg(
        long,
        value_name = "TIME",
        env = "TASKER_RETAIN",
        default_value = "30d"
    )]
    retain: String,
    /// Which of their `environments` templates are registered with on this server, such as
    /// `production`
    #[arg(
        long,
        value_name = "NAME",
        env = "TASKER_ENVIRONMENT",
        default_value = "",
        hide_default_value = true
    )]
    environment: String,
    /// Filter of the log, such as `debug` or `info,tasker::engine=debug`
    #[arg(
        long,
        value_name = "FILTER",
        env = "TASKER_LOG",
        default_value = "info"
    )]
    log: String,
    /// Format of the log: `text` for people, `json` for programs
    #[arg(
        long,
        value_name = "FORMAT",
        env = "TASKER_LOG_FORMAT",
        default_value = "text"
    )]
    log_format: String,
}

/// The filter and the format of the log.
pub struct Log {
    filter: EnvFilter,
    json: bool,
}

/// Settings of the database side.
#[derive(Debug, Clone, Args)]
pub struct DatabaseArgs {
    /// The Postgres (14 or newer) that holds all state: postgres://user:password@host:port/database
    /// or `host=… user=…`. A host elsewhere is reached over TLS with a verified certificate
    /// (`sslmode=verify-full`, `sslrootcert=…`), unless the URL specifies another `sslmode`. Prefer
    /// the environment: other users of the machine can read a command line
    #[arg(
        long,
        value_name = "URL",
        env = "TASKER_DATABASE_URL",
        hide_env_values = true
    )]
    database_url: Option<String>,
    /// Schema that holds this cell's tables
    #[arg(
        long,
        value_name = "NAME",
        env = "TASKER_SCHEMA",
        default_value = "tasker"
    )]
    schema: String,
}

impl DatabaseArgs {
    /// The database, not yet connected to.
    pub fn open(&self) -> Result<Db, CliError> {
        let url = self.database_url.as_deref().filter(|url| !url.is_empty()).ok_or_else(|| {
            CliError::new(exit::CONFIG, "no database: neither TASKER_DATABASE_URL nor --database-url is set").hint(
                "set it to postgres://user:password@host:port/database; `tasker dev` runs with a database of its own",
            )
        })?;
        Db::new(url, &self.schema).map_err(|e| CliError::new(exit::CONFIG, e.to_string()))
    }
}

impl ServeArgs {
    /// Validates every setting, before anything is opened.
    pub fn check(&self) -> Result<(SocketAddr, ServerConfig, Log), CliError> {
        let address = address(&self.listen)?;
        let config = ServerConfig {
            lease: seconds("--lease-seconds", &self.lease_seconds, LEASE_SECONDS)?,
            drain: seconds("--drain-seconds", &self.drain_seconds, DRAIN_SECONDS)?,
            cors_origins: each("--cors-origin", &self.cors_origin)?,
            allowed_hosts: each("--allowed-host", &self.allowed_host)?,
            tracer: None,
            environment: self.environment.clone(),
            retain: if self.retain == "forever" {
                None
            } else {
                Some(age("--retain", &self.retain, " or `forever`")?)
            },
        };
        let filter = EnvFilter::try_new(&self.log).map_err(|e| {
            CliError::new(
                exit::CONFIG,
                format!("--log `{}` is not a filter: {e}", self.log),
            )
        })?;
        let json = match self.log_format.as_str() {
            "text" => false,
            "json" => true,
            other => {
                let message = format!("--log-format `{other}` is unknown: expected text or json");
                return Err(CliError::new(exit::CONFIG, message));
            }
        };
        // Only checked here: the exporter needs the runtime, which does not exist yet.
        telemetry::endpoint().map_err(not_exported)?;
        Ok((address, config, Log { filter, json }))
    }
}

/// Parses each value of an option that may be given several times; empty values are ignored.
fn each<T: FromStr<Err = &'static str>>(flag: &str, texts: &[String]) -> Result<Vec<T>, CliError> {
    // A variable of the environment that is set and empty counts as not set.
    let given = texts.iter().filter(|text| !text.is_empty());
    given
        .map(|text| {
            text.parse()
                .map_err(|why| CliError::new(exit::CONFIG, format!("{flag} `{text}`: {why}")))
        })
        .collect()
}

fn not_exported(error: TelemetryError) -> CliError {
    CliError::new(exit::CONFIG, error.to_string())
}

fn seconds(
    flag: &str,
    text: &str,
    range: std::ops::RangeInclusive<f64>,
) -> Result<Duration, CliError> {
    // NaN is in no range, and too large numbers are no duration.
    let valid = text
        .parse()
        .ok()
        .filter(|s| range.contains(s))
        .and_then(|s| Duration::try_from_secs_f64(s).ok());
    valid.ok_or_else(|| {
        let message = format!(
            "{flag} `{text}` is out of bounds: expected {} to {}",
            range.start(),
            range.end()
        );
        CliError::new(exit::CONFIG, message)
    })
}

/// Parses the age from which data is removed.
pub fn age(flag: &str, text: &str, or: &str) -> Result<Duration, CliError> {
    let valid = human::parse_duration(text)
        .filter(|seconds| (3_600..=RETAIN_DAYS * 86_400).contains(seconds));
    valid.map(Duration::from_secs).ok_or_else(|| {
        let message =
            format!("{flag} `{text}` is out of bounds: expected 1h to {RETAIN_DAYS}d, such as 12h or 30d{or}");
        CliError::new(exit::CONFIG, message)
    })
}

/// Sends the log to stderr.
pub fn start_log(log: Log, session: &Session) {
    let Log { filter, json } = log;
    // The pool warns of every broken connection; the health check logs an outage once instead.
    let filter = match "deadpool=error".parse() {
        Ok(quiet) => filter.add_directive(quiet),
        Err(_) => filter,
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // `try_init` fails in a process that has a subscriber already (tests); that is no error.
    let _ = match json {
        true => log.json().flatten_event(true).try_init(),
        false => log.with_ansi(session.term.color_stderr).try_init(),
    };
}

/// Runs a command of the control plane on a multi-threaded runtime.
pub fn block_on(command: impl Future<Output = Result<u8, CliError>>) -> Result<u8, CliError> {
    tokio::runtime::Builder::new_multi_thread()
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

/// Waits for the database, then migrates its schema, or without `migrating` checks that it is up to
/// date.
pub async fn prepare(db: &Db, migrating: bool) -> Result<(), CliError> {
    let started = tokio::time::Instant::now();
    let mut said = false;
    loop {
        let result = match migrating {
            true => migrate::migrate(db).await.map(|applied| {
                for name in applied {
                    tracing::info!(name, "migration applied");
                }
            }),
            false => migrate::check(db).await,
        };
        match result {
            Ok(()) => return Ok(()),
            // A refusal (a wrong password, an unknown database) does not pass by waiting.
            Err(error)
                if error.is_transient()
                    && !error.is_refusal()
                    && started.elapsed() < DATABASE_WAIT =>
            {
                if !said {
                    tracing::warn!(%error, "waiting for the database");
                    said = true;
                }
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            Err(error) => return Err(database_error(&error)),
        }
    }
}

/// Converts a database error that ends a command, with an exit code and a hint by its kind.
pub fn database_error(error: &StoreError) -> CliError {
    let said = error.to_string();
    let failed = |code| {
        CliError::new(
            code,
            format!(
                "cannot use the database: {}",
                said.trim_start_matches("database: ")
            ),
        )
    };
    // From the specific kinds to the general: a read-only database, for one, is transient too.
    match error {
        StoreError::Schema(_) | StoreError::Config(_) | StoreError::Unfit(_) => CliError::new(exit::CONFIG, said),
        _ if error.is_read_only() => failed(exit::UNAVAILABLE)
            .hint("name the primary in the URL (several hosts may be listed), or make the database writable"),
        _ if error.is_denied() => {
            failed(exit::CONFIG).hint("run it as the owner of the schema, or grant the missing privileges")
        }
        _ if error.is_refusal() => failed(exit::CONFIG).hint("check the user, the password and the name in the URL"),
        _ if error.is_transient() => {
            failed(exit::UNAVAILABLE).hint("check that Postgres runs and that the URL is right")
        }
        _ => failed(exit::FAILURE),
    }
}

/// Prints the URL of the listening socket on stdout, then serves until SIGTERM, SIGINT or the end
/// of `also`.
pub async fn serve(
    session: &Session,
    listener: TcpListener,
    db: Db,
    config: ServerConfig,
    also: impl Future<Output = ()> + Send + 'static,
) -> Result<u8, CliError> {
    let address = listener
        .local_addr()
        .map_err(|e| CliError::new(exit::FAILURE, e.to_string()))?;
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "the server listens on a network address, without authentication");
    }
    // Before the first connection: the bounds of the accept loop follow from the limit.
    server::raise_file_limit();
    // Fills the pool, so that the first request does not pay for a new connection. A failure is
    // found again by the engine.
    let _ = servers::ping(&db).await;
    // The socket listens already, so a program that reads this line may connect at once.
    session.term.data(&format!("http://{address}\n"))?;
    // Before the start of the engine: a signal during the start must also drain.
    let signalled = ended_by_signal()?;
    let shutdown = async {
        tokio::select! {
            () = signalled => {}
            () = also => {}
        }
    };
    let telemetry = Telemetry::from_env("tasker").map_err(not_exported)?;
    let config = ServerConfig {
        tracer: telemetry.as_ref().map(Telemetry::tracer),
        ..config
    };
    let ran = server::run(listener, db, config, shutdown).await;
    if let Some(telemetry) = telemetry {
        // The last export blocks its thread.
        let _ = tokio::task::spawn_blocking(|| telemetry.end()).await;
    }
    match ran {
        Ok(()) => Ok(exit::OK),
        // With the same hints as an error before the start.
        Err(ServerError::Store(error)) => Err(database_error(&error)),
        Err(error) => Err(CliError::new(exit::FAILURE, error.to_string())),
    }
}

/// Resolves at the first SIGTERM or SIGINT; the second one exits the process at once.
fn ended_by_signal() -> Result<impl Future<Output = ()> + Send + 'static, CliError> {
    let failed =
        |e: std::io::Error| CliError::new(exit::FAILURE, format!("cannot listen for signals: {e}"));
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
        // A task of its own, since the drain may take long.
        tokio::spawn(async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::warn!("second signal; the process exits without draining");
            #[expect(clippy::disallowed_methods, reason = "stopped by a second signal")]
            std::process::exit(i32::from(exit::INTERRUPTED));
        });
    })
}
