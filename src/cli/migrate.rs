//! `tasker migrate`.

use clap::Args;
use serde_json::json;

use super::{
    Session,
    error::{CliError, exit},
    serve::{self, DatabaseArgs},
};
use crate::store::migrate;

/// Options of `tasker migrate`.
#[derive(Debug, Args)]
#[command(after_long_help = "\
Example:
  TASKER_DATABASE_URL=postgres://tasker@127.0.0.1/tasker tasker migrate

Migrations run forward only. Concurrent runs take turns.")]
pub struct Command {
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Brings the schema up to date.
pub fn run(command: &Command, session: &Session) -> Result<u8, CliError> {
    let db = command.database.open()?;
    let applied = serve::block_on(async {
        let applied = migrate::migrate(&db)
            .await
            .map_err(|e| serve::database_error(&e))?;
        if session.json() {
            session.term.json(&json!({ "applied": applied }))?;
        } else if applied.is_empty() {
            session
                .term
                .say(&format!("schema {} is up to date", db.schema()));
        } else {
            session.term.say(&format!(
                "schema {}: applied {}",
                db.schema(),
                applied.join(", ")
            ));
        }
        Ok(exit::OK)
    })?;
    Ok(applied)
}
