//! `tasker worker list`.

use clap::Subcommand;

use super::{
    Session,
    error::{CliError, exit},
    list,
    render::{
        human,
        table::Table,
        term::{clean, style},
    },
};
use crate::proto::{ListWorkersRequest, Worker};

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List the connected workers of the whole cluster
    #[command(after_long_help = "\
Examples:
  tasker worker list
  tasker worker list --handler UserManagement::StepHandlers::SetupBillingProfileHandler
  tasker worker list --json | jq -r '.workers[] | select(.draining) | .name'")]
    List {
        /// Only workers that have this handler
        #[arg(long)]
        handler: Option<String>,
    },
}

pub async fn run(command: Command, session: &Session) -> Result<u8, CliError> {
    match command {
        Command::List { handler } => run_list(handler, session).await,
    }
}

async fn run_list(handler: Option<String>, session: &Session) -> Result<u8, CliError> {
    let mut client = session.connect().await?;
    let workers = list::all(async |page_token| {
        let request = ListWorkersRequest {
            handler: handler.clone().unwrap_or_default(),
            page_token,
            ..Default::default()
        };
        let response = client.workers.list_workers(request).await;
        let page = response
            .map_err(|s| CliError::from_status("cannot list the workers", &s))?
            .into_inner();
        Ok((page.workers, page.next_page_token))
    })
    .await?;
    let nothing = match handler {
        Some(handler) => format!("no connected worker has the handler {}", clean(&handler)),
        None => "no worker is connected".into(),
    };
    list::print(session, "workers", &workers, &nothing, |workers| {
        table(workers, session)
    })?;
    Ok(exit::OK)
}

fn table(workers: &[Worker], session: &Session) -> Table {
    let mut table = Table::new([
        "NAME",
        "STATE",
        "STEPS",
        "CONNECTED",
        "NAMESPACES",
        "BUILD",
        "SERVER",
        "WORKER ID",
        "HANDLERS",
    ]);
    for w in workers {
        let (style, state) = match w.draining {
            true => (style::YELLOW, "draining"),
            false => (style::GREEN, "connected"),
        };
        let connected =
            human::elapsed(w.connected_at, None).map(|d| format!("{} ago", human::duration(d)));
        table.row([
            clean(&w.name),
            session.term.paint(style, state),
            format!("{}/{}", w.steps_in_progress, w.max_concurrent_steps),
            connected.unwrap_or_default(),
            if w.namespaces.is_empty() {
                "all".into()
            } else {
                clean(&w.namespaces.join(","))
            },
            clean(&w.build_id),
            clean(&w.server_id),
            clean(&w.worker_id),
            clean(&w.handlers.join(" ")),
        ]);
    }
    table
}
