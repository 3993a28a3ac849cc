//! `tasker circuit …`: settings, states and operator orders of the circuits that protect services.

mod get;
mod list;
mod order;
mod set;

use clap::Subcommand;

use super::{
    Session,
    error::CliError,
    render::{human, term::style},
};
use crate::proto::{Circuit, CircuitState};

#[derive(Debug, Subcommand)]
pub enum Command {
    List(list::Args),
    Get(get::Args),
    Set(set::Args),
    Force(order::Force),
    Reset(order::Reset),
}

pub async fn run(command: Command, session: &Session) -> Result<u8, CliError> {
    match command {
        Command::List(args) => list::run(args, session).await,
        Command::Get(args) => get::run(args, session).await,
        Command::Set(args) => set::run(args, session).await,
        Command::Force(args) => order::force(args, session).await,
        Command::Reset(args) => order::reset(args, session).await,
    }
}

/// The state of a circuit as one short word.
fn word(state: i32) -> String {
    human::word::<CircuitState>(state, CircuitState::as_str_name, "CIRCUIT_STATE_")
}

/// The circuit's state in words: an operator's order takes precedence over the counted state, and
/// the time left of an open circuit or of a throttle is appended.
fn standing(c: &Circuit, session: &Session) -> String {
    // By this machine's clock, so only roughly right.
    let left = |at: Option<prost_types::Timestamp>| {
        at.map(|at| human::duration(human::since(human::now(), at)))
    };
    let forced = CircuitState::try_from(c.forced).unwrap_or_default();
    let mut words = match forced {
        CircuitState::Unspecified => word(c.state),
        _ => format!("{} (forced)", word(c.forced)),
    };
    let open = CircuitState::try_from(if forced == CircuitState::Unspecified {
        c.state
    } else {
        c.forced
    });
    // `until` belongs to the counted state, which an order overrides.
    if let (Ok(CircuitState::Open), Some(left)) = (
        open,
        left(c.until).filter(|_| forced == CircuitState::Unspecified),
    ) {
        words += &format!(", {left} left");
    }
    if let Some(left) = left(c.paused_until) {
        words += &format!(", paused for {left}");
    }
    let style = match open {
        Ok(CircuitState::Open) => style::RED,
        Ok(CircuitState::HalfOpen) => style::YELLOW,
        _ if c.paused_until.is_some() => style::YELLOW,
        _ => style::GREEN,
    };
    session.term.paint(style, &words)
}
