//! `tasker dev`.

use std::path::PathBuf;

use clap::Args;

use super::{
    Session,
    error::{CliError, exit},
    serve::{self, ServeArgs},
};
use crate::{
    postgres::{self, Cluster, Options},
    server,
    store::Db,
};

/// Options of `tasker dev`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  tasker dev
  tasker dev --ephemeral --listen 127.0.0.1:0

It finds the Postgres binaries on this machine (14 or newer; also when started as root), runs a private server with
them, and stops it when it ends. Data is kept in your data folder until the next run; --ephemeral keeps nothing.")]
pub struct Command {
    #[command(flatten)]
    serve: ServeArgs,
    /// Keep nothing: the data goes when the command ends
    #[arg(long, conflicts_with = "data_dir")]
    ephemeral: bool,
    /// Keep the data here instead of in your data folder
    #[arg(long, value_name = "DIR", env = "TASKER_DEV_DATA")]
    data_dir: Option<PathBuf>,
}

/// Runs the control plane on a private Postgres.
pub fn run(command: &Command, session: &Session) -> Result<u8, CliError> {
    let (address, config, filter) = command.serve.check()?;
    serve::start_log(filter, session);
    serve::block_on(async {
        let listener = server::bind(address).await.map_err(|e| CliError::new(exit::FAILURE, e))?;
        session.term.say("starting a private Postgres …");
        let cluster = Cluster::start(options(command)?).await.map_err(|e| no_postgres(&e))?;
        let kept = if command.ephemeral { "nothing is kept" } else { "data is kept" };
        session.term.say(&format!(
            "Postgres {} on port {}, in {} ({kept})",
            cluster.version(),
            cluster.port(),
            cluster.dir().display()
        ));
        let db = Db::new(&cluster.url(), "tasker").map_err(|e| serve::database_error(&e))?;
        serve::prepare(&db, true).await?;
        let ended = cluster.ended();
        let gone = async move {
            let status = ended.await;
            tracing::error!(%status, "the private Postgres ended; ending too");
        };
        let result = serve::serve(session, listener, db, config, gone).await;
        cluster.stop().await;
        result
    })
}

fn options(command: &Command) -> Result<Options, CliError> {
    if command.ephemeral {
        return Ok(Options::default());
    }
    let data_dir = match &command.data_dir {
        Some(dir) => dir.clone(),
        None => {
            let found = postgres::find().map_err(|e| CliError::new(exit::FAILURE, e.to_string()))?;
            postgres::default_dir(found.major).map_err(|e| no_postgres(&e))?
        }
    };
    Ok(Options { data_dir: Some(data_dir), ..Options::default() })
}

fn no_postgres(error: &postgres::Error) -> CliError {
    CliError::new(exit::FAILURE, error.to_string())
}
