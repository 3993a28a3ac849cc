//! `tasker task …`: runs of templates.

mod cancel;
mod explain;
mod get;
mod list;
mod submit;
mod view;
mod watch;

use clap::Subcommand;

use super::{Session, error::CliError};

#[derive(Debug, Subcommand)]
pub enum Command {
    Submit(submit::Args),
    List(list::Args),
    Get(get::Args),
    Explain(explain::Args),
    Watch(watch::Args),
    Cancel(cancel::Args),
}

pub async fn run(command: Command, session: &Session) -> Result<u8, CliError> {
    match command {
        Command::Submit(args) => submit::run(args, session).await,
        Command::List(args) => list::run(args, session).await,
        Command::Get(args) => get::run(args, session).await,
        Command::Explain(args) => explain::run(args, session).await,
        Command::Watch(args) => watch::run(args, session).await,
        Command::Cancel(args) => cancel::run(args, session).await,
    }
}
