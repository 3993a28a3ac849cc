//! `tasker circuit get`.

use super::standing;
use crate::{
    cli::{
        Session,
        error::{CliError, exit},
        render::{human, table::Table, term::clean},
    },
    json,
    proto::{CircuitChange, GetCircuitRequest, GetCircuitResponse},
};

/// Show a service: its circuit, its settings and their scopes, and its history
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  tasker circuit get user_management billing_service")]
pub struct Args {
    /// Namespace of the service's templates
    namespace: String,
    /// Name of the service: `handler_config.service` in the template, or else the handler's
    service: String,
}

pub async fn run(args: Args, session: &Session) -> Result<u8, CliError> {
    let request = GetCircuitRequest {
        namespace: args.namespace,
        service: args.service,
    };
    let response = session.connect().await?.circuits.get_circuit(request).await;
    let found = response
        .map_err(|s| CliError::from_status("cannot get the circuit", &s))?
        .into_inner();
    if session.json() {
        session.term.json(&json::value(&found))?;
        return Ok(exit::OK);
    }
    let circuit = found.circuit.clone().unwrap_or_default();
    let mut out = format!(
        "{}/{}: {}\n",
        clean(&circuit.namespace),
        clean(&circuit.service),
        standing(&circuit, session)
    );
    if !circuit.forced_by.is_empty() {
        out += &format!(
            "by {}: {}\n",
            clean(&circuit.forced_by),
            clean(&circuit.forced_reason)
        );
    }
    out += &format!(
        "{} of {} calls failed in the window; {} steps run, {} wait\n\n",
        circuit.window_failures,
        circuit.window_calls,
        circuit.steps_in_progress,
        circuit.steps_waiting
    );
    out += &settings(&found).render(&session.term);
    if !found.changes.is_empty() {
        out += &format!("\n{}", history(&found.changes).render(&session.term));
    }
    session.term.data(&out)?;
    Ok(exit::OK)
}

/// The settings in force, each with the scope that sets it.
fn settings(found: &GetCircuitResponse) -> Table {
    let of = |policy: &Option<_>| policy.as_ref().map(json::value).unwrap_or_default();
    let all = of(&found.policy);
    let scopes = [
        ("service", of(&found.set_for_service)),
        ("namespace", of(&found.set_for_namespace)),
        ("cell", of(&found.set_for_cell)),
    ];
    let mut table = Table::new(["SETTING", "VALUE", "SET FOR"]);
    // The policy in force has every field, so its fields are the rows.
    for (field, value) in all.as_object().into_iter().flatten() {
        // From the narrowest scope to the widest: the first one that sets the field decides.
        let set = scopes
            .iter()
            .find(|(_, set)| !set[field].is_null())
            .map_or("default", |(scope, _)| scope);
        table.row([field.clone(), value.to_string(), set.to_owned()]);
    }
    table
}

fn history(changes: &[CircuitChange]) -> Table {
    let mut table = Table::new(["AT", "CHANGE", "UNTIL", "BY", "WHY"]);
    for change in changes {
        table.row([
            human::time_or_dash(change.at),
            clean(&change.r#type),
            human::time_or_dash(change.until),
            clean(&change.by),
            clean(&change.detail),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::render::term::Term, proto::Policy};

    #[test]
    fn setting_shows_its_origin() {
        let found = GetCircuitResponse {
            policy: Some(Policy {
                probes: Some(9),
                burst: Some(2),
                min_calls: Some(10),
                ..Policy::default()
            }),
            set_for_service: Some(Policy {
                probes: Some(9),
                ..Policy::default()
            }),
            set_for_cell: Some(Policy {
                probes: Some(1),
                burst: Some(2),
                ..Policy::default()
            }),
            ..GetCircuitResponse::default()
        };
        let text = settings(&found).render(&Term::plain());
        for line in [
            "probes  9  service",
            "burst  2  cell",
            "min_calls  10  default",
        ] {
            let found = text
                .lines()
                .any(|l| l.split_whitespace().eq(line.split_whitespace()));
            assert!(found, "{line} is not in\n{text}");
        }
        assert_eq!(
            json::value(&Policy::default())["probes"],
            serde_json::Value::Null
        );
    }
}
