//! `tasker circuit list`.

use serde_json::json;

use super::standing;
use crate::{
    cli::{
        Session,
        error::{CliError, exit},
        human,
        table::Table,
        term::clean,
    },
    json,
    proto::{Circuit, ListCircuitsRequest},
};

/// List the services with their circuits
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tasker circuit list
  tasker circuit list --namespace user_management
  tasker circuit list --json | jq '.circuits[] | select(.state != \"closed\")'

FAILED is what the rolling window holds; OPENED is of the last 24 hours.")]
pub struct Args {
    /// Only services of this namespace
    #[arg(long)]
    namespace: Option<String>,
}

pub async fn run(args: Args, session: &Session) -> Result<u8, CliError> {
    let mut client = session.connect().await?;
    let mut circuits: Vec<Circuit> = Vec::new();
    let mut page_token = String::new();
    loop {
        let namespace = args.namespace.clone().unwrap_or_default();
        let request = ListCircuitsRequest { namespace, page_size: 1_000, page_token };
        let response = client.circuits.list_circuits(request).await;
        let page = response.map_err(|s| CliError::from_status("cannot list the circuits", &s))?.into_inner();
        circuits.extend(page.circuits);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if session.json() {
        session.term.json(&json!({"circuits": json::values(&circuits)}))?;
    } else if circuits.is_empty() {
        session.term.say("there are no services: register a template first");
    } else {
        session.term.data(&table(&circuits, session).render(&session.term))?;
    }
    Ok(exit::OK)
}

fn table(circuits: &[Circuit], session: &Session) -> Table {
    let mut table = Table::new(["NAMESPACE", "SERVICE", "FAILED", "RUNNING", "WAITING", "OPENED", "CIRCUIT"]);
    for c in circuits {
        let open = c.time_open.and_then(|d| std::time::Duration::try_from(d).ok()).filter(|_| c.times_opened > 0);
        let open = open.map(|time| format!(" for {}", human::duration(time))).unwrap_or_default();
        table.row([
            clean(&c.namespace),
            clean(&c.service),
            format!("{}/{}", c.window_failures, c.window_calls),
            c.steps_in_progress.to_string(),
            c.steps_waiting.to_string(),
            format!("{}×{open}", c.times_opened),
            standing(c, session),
        ]);
    }
    table
}
