//! `tasker task …`: runs of templates.

mod cancel;
mod explain;
mod get;
mod list;
mod order;
mod pause;
mod resolve;
mod retry;
mod skip;
mod submit;
mod updates;
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
    Retry(retry::Args),
    Resolve(resolve::Args),
    Skip(skip::Args),
    Pause(pause::Pause),
    Resume(pause::Resume),
}

pub async fn run(command: Command, session: &Session) -> Result<u8, CliError> {
    match command {
        Command::Submit(args) => submit::run(args, session).await,
        Command::List(args) => list::run(args, session).await,
        Command::Get(args) => get::run(args, session).await,
        Command::Explain(args) => explain::run(args, session).await,
        Command::Watch(args) => watch::run(args, session).await,
        Command::Cancel(args) => cancel::run(args, session).await,
        Command::Retry(args) => retry::run(args, session).await,
        Command::Resolve(args) => resolve::run(args, session).await,
        Command::Skip(args) => skip::run(args, session).await,
        Command::Pause(args) => pause::pause(args, session).await,
        Command::Resume(args) => pause::resume(args, session).await,
    }
}
