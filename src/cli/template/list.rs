//! `tasker template list`.

use crate::{
    cli::{
        Session,
        error::{CliError, exit},
        human, list,
        table::Table,
        term::clean,
    },
    proto::{ListTemplatesRequest, Template},
};

/// The largest page that a server gives.
const PAGE_SIZE: i32 = 500;

/// List the registered templates, versions from new to old
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tasker template list
  tasker template list --namespace user_management
  tasker template list --json | jq -r '.templates[].task_name'")]
pub struct Args {
    /// Only templates of this namespace
    #[arg(long)]
    namespace: Option<String>,
}

pub async fn run(args: Args, session: &Session) -> Result<u8, CliError> {
    let mut client = session.connect().await?;
    let templates = list::all(async |page_token| {
        let namespace = args.namespace.clone().unwrap_or_default();
        let request = ListTemplatesRequest {
            namespace,
            page_size: PAGE_SIZE,
            page_token,
        };
        let response = client.templates.list_templates(request).await;
        let page = response
            .map_err(|s| CliError::from_status("cannot list the templates", &s))?
            .into_inner();
        Ok((page.templates, page.next_page_token))
    })
    .await?;
    let nothing = "no template is registered here; `tasker template register FILE` stores one";
    list::print(session, "templates", &templates, nothing, table)?;
    Ok(exit::OK)
}

fn table(templates: &[Template]) -> Table {
    let mut table = Table::new(["TEMPLATE", "VERSION", "STEPS", "REGISTERED", "DESCRIPTION"]);
    for t in templates {
        table.row([
            clean(&format!("{}/{}", t.namespace, t.task_name)),
            clean(&t.version),
            t.steps.len().to_string(),
            t.registered_at.map(human::time).unwrap_or_default(),
            clean(&t.description),
        ]);
    }
    table
}
