//! `tasker circuit force` and `tasker circuit reset`.

use std::time::Duration;

use serde_json::json;

use super::standing;
use crate::{
    cli::{
        Session,
        args::who::Who,
        error::{CliError, exit},
        render::term::clean,
    },
    json,
    proto::{Circuit, CircuitState, ForceCircuitRequest, ResetCircuitRequest},
};

/// The state that an order puts a circuit in.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum To {
    /// No step of the service starts; its steps wait and spend no attempts
    Open,
    /// Every step passes, however many calls fail; throttles and limits still apply
    Closed,
}

/// Open or close a circuit regardless of its counts
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tasker circuit force open user_management billing_service --for 600 --reason 'their maintenance'
  tasker circuit force closed user_management billing_service --reason 'we know that it works'

An order holds until it expires or an operator resets the circuit.")]
pub struct Force {
    /// State to put the circuit in
    to: To,
    /// Namespace of the service's templates
    namespace: String,
    /// Name of the service
    service: String,
    /// How long the order holds; by default until the circuit is reset
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<f64>,
    #[command(flatten)]
    who: Who,
}

/// Close a circuit, and clear its counts, an order and a throttle
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  tasker circuit reset user_management billing_service --reason 'they are back'")]
pub struct Reset {
    /// Namespace of the service's templates
    namespace: String,
    /// Name of the service
    service: String,
    #[command(flatten)]
    who: Who,
}

pub async fn force(order: Force, session: &Session) -> Result<u8, CliError> {
    let state = match order.to {
        To::Open => CircuitState::Open,
        To::Closed => CircuitState::Closed,
    };
    let (by, reason) = order.who.resolve();
    // A negative time becomes zero, which the server refuses together with its bounds.
    let expires_after = order
        .seconds
        .map(|s| Duration::try_from_secs_f64(s).unwrap_or_default());
    let request = ForceCircuitRequest {
        namespace: order.namespace,
        service: order.service,
        state: state.into(),
        expires_after: expires_after.map(|d| d.try_into().unwrap_or_default()),
        by,
        reason,
    };
    let response = session
        .connect()
        .await?
        .circuits
        .force_circuit(request)
        .await;
    tell(
        response
            .map_err(|s| CliError::from_status("cannot force the circuit", &s))?
            .into_inner()
            .circuit,
        session,
    )
}

pub async fn reset(args: Reset, session: &Session) -> Result<u8, CliError> {
    let (by, reason) = args.who.resolve();
    let request = ResetCircuitRequest {
        namespace: args.namespace,
        service: args.service,
        by,
        reason,
    };
    let response = session
        .connect()
        .await?
        .circuits
        .reset_circuit(request)
        .await;
    tell(
        response
            .map_err(|s| CliError::from_status("cannot reset the circuit", &s))?
            .into_inner()
            .circuit,
        session,
    )
}

fn tell(circuit: Option<Circuit>, session: &Session) -> Result<u8, CliError> {
    let circuit = circuit.unwrap_or_default();
    if session.json() {
        session
            .term
            .json(&json!({"circuit": json::value(&circuit)}))?;
    } else {
        let name = format!("{}/{}", clean(&circuit.namespace), clean(&circuit.service));
        session
            .term
            .say(&format!("{name} is {}", standing(&circuit, session)));
    }
    Ok(exit::OK)
}
