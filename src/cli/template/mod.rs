//! `tasker template …`: workflow definitions, and pauses of all their tasks.

mod files;
mod list;
mod pause;
mod register;
mod retire;
mod show;
mod validate;

use clap::Subcommand;

use super::{Session, error::CliError};

#[derive(Debug, Subcommand)]
pub enum Command {
    Validate(validate::Args),
    Register(register::Args),
    List(list::Args),
    Show(show::Args),
    Pause(pause::Pause),
    Resume(pause::Resume),
    Retire(retire::Args),
    Pauses(pause::Pauses),
}

pub async fn run(command: Command, session: &Session) -> Result<u8, CliError> {
    match command {
        Command::Validate(args) => validate::run(&args, session),
        Command::Register(args) => register::run(args, session).await,
        Command::List(args) => list::run(args, session).await,
        Command::Show(args) => show::run(args, session).await,
        Command::Pause(args) => pause::pause(args, session).await,
        Command::Retire(args) => retire::run(args, session).await,
        Command::Resume(args) => pause::resume(args, session).await,
        Command::Pauses(args) => pause::list(args, session).await,
    }
}
