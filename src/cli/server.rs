//! `tasker server`.

use clap::Args;

use super::{
    Session,
    error::{CliError, exit},
    serve::{self, DatabaseArgs, ServeArgs},
};
use crate::server;

/// Options of `tasker server`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Examples:
  TASKER_DATABASE_URL=postgres://tasker@127.0.0.1/tasker tasker server --migrate
  tasker server --listen 10.0.0.5:7233 --drain-seconds 120

It prints its address on stdout once it listens. On SIGTERM or Ctrl-C it drains: it assigns no more steps, notifies the workers, accepts the results of running steps, and ends after at most --drain-seconds; a second signal ends it immediately. Any number of servers can share one database.")]
pub struct Command {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(flatten)]
    serve: ServeArgs,
    /// Bring the schema up to date first, as `tasker migrate` does
    #[arg(long, env = "TASKER_MIGRATE", value_parser = clap::builder::FalseyValueParser::new())]
    migrate: bool,
}

/// Runs the control plane on the user's Postgres.
pub fn run(command: &Command, session: &Session) -> Result<u8, CliError> {
    let (address, config, filter) = command.serve.check()?;
    let db = command.database.open()?;
    serve::start_log(filter, session);
    serve::block_on(async {
        // Bound before the wait for the database, so that a taken port fails at once.
        let listener = server::bind(address)
            .await
            .map_err(|e| CliError::new(exit::FAILURE, e))?;
        serve::prepare(&db, command.migrate).await?;
        serve::serve(session, listener, db, config, std::future::pending()).await
    })
}
