//! `tasker circuit list`.

use super::standing;
use crate::{
    cli::{
        Session,
        error::{CliError, exit},
        list,
        render::{human, table::Table, term::clean},
    },
    proto::{Circuit, ListCircuitsRequest},
};

/// The largest page that a server returns.
const PAGE_SIZE: i32 = 1_000;

/// List the services with their circuits
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tasker circuit list
  tasker circuit list --namespace user_management
  tasker circuit list --json | jq '.circuits[] | select(.state != \"closed\")'

FAILED counts the rolling window, OPENED the last 24 hours.")]
pub struct Args {
    /// Only services of this namespace
    #[arg(long)]
    namespace: Option<String>,
}

pub async fn run(args: Args, session: &Session) -> Result<u8, CliError> {
    let mut client = session.connect().await?;
    let circuits = list::all(async |page_token| {
        let namespace = args.namespace.clone().unwrap_or_default();
        let request = ListCircuitsRequest {
            namespace,
            page_size: PAGE_SIZE,
            page_token,
        };
        let response = client.circuits.list_circuits(request).await;
        let page = response
            .map_err(|s| CliError::from_status("cannot list the circuits", &s))?
            .into_inner();
        Ok((page.circuits, page.next_page_token))
    })
    .await?;
    let nothing = "there are no services: register a template first";
    list::print(session, "circuits", &circuits, nothing, |circuits| {
        table(circuits, session)
    })?;
    Ok(exit::OK)
}

fn table(circuits: &[Circuit], session: &Session) -> Table {
    let mut table = Table::new([
        "NAMESPACE",
        "SERVICE",
        "FAILED",
        "RUNNING",
        "WAITING",
        "OPENED",
        "CIRCUIT",
    ]);
    for c in circuits {
        let open = c
            .time_open
            .and_then(|d| std::time::Duration::try_from(d).ok())
            .filter(|_| c.times_opened > 0);
        let open = open
            .map(|time| format!(" for {}", human::duration(time)))
            .unwrap_or_default();
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
