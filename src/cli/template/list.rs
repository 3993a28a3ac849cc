//! `tasker template list`.

use serde_json::json;

use crate::{
    cli::{
        Session,
        error::{CliError, exit},
        human,
        table::Table,
        term::clean,
    },
    json,
    proto::ListTemplatesRequest,
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
    let namespace = args.namespace.unwrap_or_default();
    let (mut templates, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListTemplatesRequest { namespace: namespace.clone(), page_size: PAGE_SIZE, page_token };
        let response = client.templates.list_templates(request).await;
        let page = response.map_err(|s| CliError::from_status("cannot list the templates", &s))?.into_inner();
        templates.extend(page.templates);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    if session.json() {
        session.term.json(&json!({"templates": json::values(&templates)}))?;
        return Ok(exit::OK);
    }
    if templates.is_empty() {
        session.term.say("no template is registered here; `tasker template register FILE` stores one");
        return Ok(exit::OK);
    }
    let mut table = Table::new(["TEMPLATE", "VERSION", "STEPS", "REGISTERED", "DESCRIPTION"]);
    for t in &templates {
        table.row([
            clean(&format!("{}/{}", t.namespace, t.task_name)),
            clean(&t.version),
            t.steps.len().to_string(),
            t.registered_at.map(human::time).unwrap_or_default(),
            clean(&t.description),
        ]);
    }
    session.term.data(&table.render(&session.term))?;
    Ok(exit::OK)
}
