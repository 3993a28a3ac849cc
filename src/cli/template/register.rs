//! `tasker template register`: checks all files, then stores them.

use serde_json::json;

use super::validate;
use crate::{
    cli::{
        Session,
        error::{CliError, exit},
        term::clean,
    },
    json,
    proto::{RegisterTemplateRequest, RegisterTemplateResponse},
};

/// Check templates and store them on the server
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tasker template register registration.yaml
  tasker template register templates/*.yaml --json | jq '.templates[] | select(.created)'

All files are checked before any is sent; warnings are shown and refuse nothing without --deny-warnings. A registered version never changes: registering the same content again does \
nothing, and other content needs a new version. Prints `NAMESPACE/NAME@VERSION` for each file.")]
pub struct Args {
    /// YAML files; `-` is stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Store nothing of a template that has warnings
    #[arg(long)]
    deny_warnings: bool,
}

pub async fn run(args: Args, session: &Session) -> Result<u8, CliError> {
    let deny_warnings = args.deny_warnings;
    let texts = validate::read_all(&args.files, deny_warnings, session)?;
    let mut client = session.connect().await?;
    let (mut registered, mut failure) = (Vec::new(), None);
    for (file, yaml) in args.files.iter().zip(texts) {
        match client.templates.register_template(RegisterTemplateRequest { yaml, deny_warnings }).await {
            Ok(response) => registered.push((file.as_str(), response.into_inner())),
            Err(status) => {
                failure = Some(CliError::from_status(&format!("cannot register {}", clean(file)), &status));
                break;
            }
        }
    }
    // What was stored before a failure is stored, so it is told.
    print(&registered, session)?;
    failure.map_or(Ok(exit::OK), Err)
}

fn print(registered: &[(&str, RegisterTemplateResponse)], session: &Session) -> Result<(), CliError> {
    if session.json() {
        let responses: Vec<_> = registered.iter().map(|(_, response)| json::value(response)).collect();
        session.term.json(&json!({"templates": responses}))?;
        return Ok(());
    }
    for (file, response) in registered {
        for warning in &response.warnings {
            session.term.say(&validate::warning(file, warning));
        }
        let template = response.template.clone().unwrap_or_default();
        let name = clean(&format!("{}/{}@{}", template.namespace, template.task_name, template.version));
        session.term.data(&name)?;
        session.term.say(&match response.created {
            true => format!("registered {name}, {} steps", template.steps.len()),
            false => format!("{name} is registered already, with the same content"),
        });
    }
    Ok(())
}
