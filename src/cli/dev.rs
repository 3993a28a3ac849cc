//! `tasker dev`.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::{Arc, OnceLock},
    time::Duration,
};

use clap::Args;
use tasker_devdb::{Binaries, Cluster, FindError, Options};

use super::{
    Session,
    error::{CliError, exit},
    serve::{self, ServeArgs},
};
use crate::{server, store::Db};

/// How long to wait for the exit of a Postgres after a query on it failed.
const END_LIMIT: Duration = Duration::from_secs(2);

/// Options of `tasker dev`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tasker dev
  tasker dev --ephemeral --listen 127.0.0.1:0

It finds the Postgres binaries of this machine (14 or newer; also when started as root), runs a private server with them, and stops it at the end. The data stays in your data folder for the next run; --ephemeral removes it.")]
pub struct Command {
    #[command(flatten)]
    serve: ServeArgs,
    /// Keep no data: it is removed when the command ends
    #[arg(long, conflicts_with = "data_dir")]
    ephemeral: bool,
    /// Keep the data in this folder instead of your data folder
    #[arg(long, value_name = "DIR", env = "TASKER_DEV_DATA")]
    data_dir: Option<PathBuf>,
}

/// Runs the control plane on a private Postgres.
pub fn run(command: &Command, session: &Session) -> Result<u8, CliError> {
    let (address, config, filter) = command.serve.check()?;
    serve::start_log(filter, session);
    serve::block_on(async {
        // Bound before Postgres starts, so that a taken port fails at once.
        let listener = server::bind(address)
            .await
            .map_err(|e| CliError::new(exit::FAILURE, e))?;
        session.term.say("starting a private Postgres …");
        let cluster = Cluster::start(options(command)?)
            .await
            .map_err(|e| no_postgres(&e))?;
        let kept = if command.ephemeral {
            "ephemeral"
        } else {
            "persistent"
        };
        session.term.say(&format!(
            "Postgres {} on port {}, in {} ({kept})",
            cluster.version(),
            cluster.port(),
            cluster.dir().display()
        ));
        let db = Db::new(&cluster.url(), "tasker").map_err(|e| serve::database_error(&e))?;
        serve::prepare(&db, true).await?;
        let (ended, death) = (cluster.ended(), Arc::new(OnceLock::new()));
        let told = Arc::clone(&death);
        let gone = async move {
            let status = ended.await;
            tracing::error!(%status, "the private Postgres ended; the server stops");
            // Kept for the error: the server itself only observes that its database is gone.
            let _ = told.set(status);
        };
        let result = serve::serve(session, listener, db, config, gone).await;
        // During the start a failing query can end the server before the exit of Postgres is
        // noticed.
        let died = match death.get() {
            Some(status) => Some(*status),
            None if result.is_err() => tokio::time::timeout(END_LIMIT, cluster.ended()).await.ok(),
            None => None,
        };
        // Taken before the stop, which removes an ephemeral folder and its log.
        let log = cluster.log();
        // After the server, whose drain still writes.
        cluster.stop().await;
        match died {
            Some(status) => Err(postgres_ended(status, &log, command.ephemeral)),
            None => result,
        }
    })
}

/// The error of a server that drained because its Postgres ended, not because it was asked to stop.
fn postgres_ended(status: ExitStatus, log: &Path, ephemeral: bool) -> CliError {
    let error = CliError::new(
        exit::FAILURE,
        format!("the private Postgres ended unexpectedly: {status}"),
    );
    match ephemeral {
        true => error.hint("start it again without --ephemeral to keep the log of Postgres"),
        false => error.hint(format!(
            "see the cause in {}, then start it again: committed data is kept",
            log.display()
        )),
    }
}

fn options(command: &Command) -> Result<Options, CliError> {
    let binaries = binaries(command).map_err(|e| no_postgres(&e))?;
    let data_dir = match (&command.data_dir, command.ephemeral) {
        (_, true) => None,
        (Some(dir), _) => Some(dir.clone()),
        (None, _) => Some(tasker_devdb::default_dir(binaries.major).map_err(|e| no_postgres(&e))?),
    };
    Ok(Options {
        data_dir,
        binaries: Some(binaries),
        ..Options::default()
    })
}

fn binaries(command: &Command) -> Result<Binaries, FindError> {
    // A data folder that was named may come from another major version than the first one found.
    match command.data_dir.as_deref().and_then(tasker_devdb::made_by) {
        Some(major) => tasker_devdb::find_major(major),
        None => tasker_devdb::find(),
    }
}

fn no_postgres(error: &impl fmt::Display) -> CliError {
    CliError::new(exit::FAILURE, error.to_string())
}
