//! `tasker template list`.

use crate::{
    cli::{
        Session,
        error::{CliError, exit},
        list,
        render::{human, table::Table, term::clean},
    },
    proto::{ListTemplatesRequest, Template},
};

/// The largest page that a server returns.
const PAGE_SIZE: i32 = 500;

/// List the registered templates, versions from new to old
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tasker template list
  tasker template list --namespace user_management --retired
  tasker template list --json | jq -r '.templates[].task_name'")]
pub struct Args {
    /// Only templates of this namespace
    #[arg(long)]
    namespace: Option<String>,
    /// Include retired versions
    #[arg(long)]
    retired: bool,
}

pub async fn run(args: Args, session: &Session) -> Result<u8, CliError> {
    let mut client = session.connect().await?;
    let templates = list::all(async |page_token| {
        let namespace = args.namespace.clone().unwrap_or_default();
        let request = ListTemplatesRequest {
            namespace,
            page_size: PAGE_SIZE,
            page_token,
            include_retired: args.retired,
        };
        let response = client.templates.list_templates(request).await;
        let page = response
            .map_err(|s| CliError::from_status("cannot list the templates", &s))?
            .into_inner();
        Ok((page.templates, page.next_page_token))
    })
    .await?;
    let nothing = "no template matches; `tasker template register FILE` stores one";
    let table = |templates: &[Template]| table(templates, args.retired);
    list::print(session, "templates", &templates, nothing, table)?;
    Ok(exit::OK)
}

fn table(templates: &[Template], with_retired: bool) -> Table {
    let retired = with_retired.then_some(["RETIRED", "BY", "WHY"]);
    let columns = ["TEMPLATE", "VERSION", "STEPS", "REGISTERED", "DESCRIPTION"];
    let mut table = Table::new(columns.into_iter().chain(retired.into_iter().flatten()));
    for t in templates {
        let retired = with_retired.then(|| {
            [
                t.retired_at.map(human::time).unwrap_or_default(),
                clean(&t.retired_by),
                clean(&t.retired_reason),
            ]
        });
        let cells = [
            clean(&format!("{}/{}", t.namespace, t.task_name)),
            clean(&t.version),
            t.steps.len().to_string(),
            t.registered_at.map(human::time).unwrap_or_default(),
            clean(&t.description),
        ];
        table.row(cells.into_iter().chain(retired.into_iter().flatten()));
    }
    table
}
