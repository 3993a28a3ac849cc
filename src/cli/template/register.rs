//! `tasker template register`: validates all files, then stores them.

use serde_json::json;

use super::validate;
use crate::{
    cli::{
        Session,
        error::{CliError, exit},
        render::term::clean,
    },
    json,
    proto::{RegisterTemplateRequest, RegisterTemplateResponse},
};

/// Check templates and store them on the server
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tasker template register registration.yaml
  tasker template register templates/ --json | jq '.templates[] | select(.created)'

A folder stands for its *.yaml and *.yml files, in the order of their names. All files are checked before any is sent; each file that the server refuses is reported, and the others are stored. Warnings are shown; only with --deny-warnings do they refuse a file. A registered version never changes: registering the same content again does nothing, except that a retired version accepts tasks again; other content needs a new version. Prints `NAMESPACE/NAME@VERSION` for each file.")]
pub struct Args {
    /// YAML files, or folders with them; `-` is stdin
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Store no template that has warnings
    #[arg(long)]
    deny_warnings: bool,
}

pub async fn run(args: Args, session: &Session) -> Result<u8, CliError> {
    let deny_warnings = args.deny_warnings;
    let files = validate::read_all(&args.files, deny_warnings, session)?;
    let mut client = session.connect().await?;
    let (count, mut registered, mut failures) = (files.len(), Vec::new(), Vec::new());
    for (file, yaml) in files {
        match client
            .templates
            .register_template(RegisterTemplateRequest {
                yaml,
                deny_warnings,
            })
            .await
        {
            Ok(response) => registered.push((file, response.into_inner())),
            Err(status) => {
                let error =
                    CliError::from_status(&format!("cannot register {}", clean(&file)), &status);
                // Further files would fail in the same way, each after its own time-out.
                let unavailable = error.code == exit::UNAVAILABLE;
                failures.push(error);
                if unavailable {
                    break;
                }
            }
        }
    }
    // Stored templates are reported even if others were refused, as they stay stored.
    print(&registered, session)?;
    let unsent = count - registered.len() - failures.len();
    if unsent > 0 {
        session
            .term
            .say(&format!("{unsent} of {count} files were not sent"));
    }
    // The last error is that of the command, and its exit code; those before it are printed here.
    let last = failures.pop();
    failures.iter().for_each(|error| error.say(&session.term));
    last.map_or(Ok(exit::OK), Err)
}

fn print(
    registered: &[(String, RegisterTemplateResponse)],
    session: &Session,
) -> Result<(), CliError> {
    if session.json() {
        let responses: Vec<_> = registered
            .iter()
            .map(|(_, response)| json::value(response))
            .collect();
        session.term.json(&json!({"templates": responses}))?;
        return Ok(());
    }
    for (file, response) in registered {
        for warning in &response.warnings {
            session.term.say(&validate::warning(file, warning));
        }
        let template = response.template.clone().unwrap_or_default();
        let name = clean(&format!(
            "{}/{}@{}",
            template.namespace, template.task_name, template.version
        ));
        session.term.data(&name)?;
        session
            .term
            .say(&match (response.created, response.restored) {
                (true, _) => format!("registered {name}, {} steps", template.steps.len()),
                (false, true) => format!("{name} was retired and accepts tasks again"),
                (false, false) => format!("{name} is registered already, with the same content"),
            });
    }
    Ok(())
}
