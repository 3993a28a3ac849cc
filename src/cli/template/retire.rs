//! `tasker template retire`.

use serde_json::json;

use crate::{
    cli::{
        Session,
        args::{reference::TemplateRef, who::Who},
        error::{CliError, exit},
        render::{human, term::clean},
    },
    json,
    proto::RetireTemplateRequest,
};

/// Retire a version: it takes no new tasks
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  tasker template retire shop/checkout@1.0.0 --reason 'replaced by 2.0.0'

The command is refused while tasks of the version have not ended. A submit without a version uses the newest other version. `tasker template register` with the same content ends the retirement. Retention removes the version after its last task.")]
pub struct Args {
    /// The version to retire
    #[arg(value_name = "NAMESPACE/NAME@VERSION", value_parser = version)]
    template: TemplateRef,
    #[command(flatten)]
    who: Who,
}

fn version(text: &str) -> Result<TemplateRef, String> {
    let template: TemplateRef = text.parse()?;
    if template.version.is_empty() {
        return Err(
            "expected NAMESPACE/NAME@VERSION, such as `shop/checkout@1.2.0`: one version is retired at a time".into(),
        );
    }
    Ok(template)
}

pub async fn run(args: Args, session: &Session) -> Result<u8, CliError> {
    let name = clean(&args.template.to_string());
    let (by, reason) = args.who.resolve();
    let TemplateRef {
        namespace,
        name: task_name,
        version,
    } = args.template;
    let request = RetireTemplateRequest {
        namespace,
        task_name,
        version,
        by,
        reason,
    };
    let response = session
        .connect()
        .await?
        .templates
        .retire_template(request)
        .await;
    let template = response
        .map_err(|s| CliError::from_status(&format!("cannot retire {name}"), &s))?
        .into_inner()
        .template
        .unwrap_or_default();
    if session.json() {
        session
            .term
            .json(&json!({"template": json::value(&template)}))?;
    } else {
        let since = human::time_or_dash(template.retired_at);
        session.term.say(&format!(
            "{name} is retired since {since} by {}",
            clean(&template.retired_by)
        ));
    }
    Ok(exit::OK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retire_without_a_version_is_refused() {
        assert!(version("shop/checkout@1.0.0").is_ok());
        let refused = version("shop/checkout").unwrap_err();
        assert!(refused.contains("NAMESPACE/NAME@VERSION"), "{refused}");
    }
}
