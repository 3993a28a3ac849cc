//! `tasker template pause`, `tasker template resume` and `tasker template pauses`.

use serde_json::json;

use crate::{
    cli::{
        Session,
        args::who::Who,
        error::{CliError, exit},
        list,
        render::{human, table::Table, term::clean},
    },
    json,
    proto::{self, ListPausesRequest, PauseTemplateRequest, ResumeTemplateRequest},
};

/// Pause a whole template or namespace: no step of it starts, also of tasks to come
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tasker template pause shop/checkout --reason 'it charges twice'
  tasker template pause shop --reason 'the warehouse moves'

New tasks are accepted and wait; running steps continue to their end. The pause lasts until an operator resumes it, across restarts.")]
pub struct Pause {
    /// Template or namespace to pause, in all versions
    #[arg(value_name = "NAMESPACE[/NAME]", value_parser = scope)]
    what: Scope,
    #[command(flatten)]
    who: Who,
}

/// Resume a paused template or namespace
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  tasker template resume shop/checkout --reason 'repaired'

A pause of the namespace still holds its templates; `tasker task resume` resumes a task that was paused itself.")]
pub struct Resume {
    /// Template or namespace to resume, as `tasker template pauses` lists it
    #[arg(value_name = "NAMESPACE[/NAME]", value_parser = scope)]
    what: Scope,
    #[command(flatten)]
    who: Who,
}

/// List the templates and namespaces that are paused
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Example:
  tasker template pauses")]
pub struct Pauses {}

/// A namespace, or a template in it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Scope {
    namespace: String,
    task_name: String,
}

fn scope(text: &str) -> Result<Scope, String> {
    let (namespace, task_name) = text.split_once('/').unwrap_or((text, ""));
    if namespace.is_empty() || task_name.contains(['/', '@']) || text.ends_with('/') {
        return Err(
            "expected NAMESPACE or NAMESPACE/NAME, such as `shop` or `shop/checkout`".into(),
        );
    }
    Ok(Scope {
        namespace: namespace.into(),
        task_name: task_name.into(),
    })
}

impl Scope {
    fn name(&self) -> String {
        let slash = if self.task_name.is_empty() { "" } else { "/" };
        clean(&format!("{}{slash}{}", self.namespace, self.task_name))
    }
}

pub async fn pause(args: Pause, session: &Session) -> Result<u8, CliError> {
    let (by, reason) = args.who.resolve();
    let name = args.what.name();
    let Scope {
        namespace,
        task_name,
    } = args.what;
    let response = session
        .connect()
        .await?
        .tasks
        .pause_template(PauseTemplateRequest {
            namespace,
            task_name,
            by,
            reason,
        })
        .await;
    let pause = response
        .map_err(|s| CliError::from_status(&format!("cannot pause {name}"), &s))?
        .into_inner()
        .pause;
    let pause = pause.unwrap_or_default();
    if session.json() {
        session.term.json(&json!({"pause": json::value(&pause)}))?;
    } else {
        let since = human::time_or_dash(pause.paused_at);
        session.term.say(&format!(
            "{name} is paused since {since} by {}",
            clean(&pause.paused_by)
        ));
    }
    Ok(exit::OK)
}

pub async fn resume(args: Resume, session: &Session) -> Result<u8, CliError> {
    let (by, reason) = args.who.resolve();
    let name = args.what.name();
    let Scope {
        namespace,
        task_name,
    } = args.what;
    let request = ResumeTemplateRequest {
        namespace,
        task_name,
        by,
        reason,
    };
    let response = session
        .connect()
        .await?
        .tasks
        .resume_template(request)
        .await;
    let found = response
        .map_err(|s| CliError::from_status(&format!("cannot resume {name}"), &s))?
        .into_inner();
    if session.json() {
        session.term.json(&json::value(&found))?;
    } else {
        session.term.say(&format!(
            "{name} {}",
            if found.was_paused {
                "goes on"
            } else {
                "was not paused"
            }
        ));
    }
    Ok(exit::OK)
}

pub async fn list(_: Pauses, session: &Session) -> Result<u8, CliError> {
    let mut client = session.connect().await?;
    let pauses = list::all(async |page_token| {
        let request = ListPausesRequest {
            page_token,
            ..Default::default()
        };
        let response = client.tasks.list_pauses(request).await;
        let page = response
            .map_err(|s| CliError::from_status("cannot list the pauses", &s))?
            .into_inner();
        Ok((page.pauses, page.next_page_token))
    })
    .await?;
    let nothing = "no template and no namespace is paused";
    list::print(session, "pauses", &pauses, nothing, table)?;
    Ok(exit::OK)
}

fn table(pauses: &[proto::Pause]) -> Table {
    let mut table = Table::new(["PAUSED", "SINCE", "BY", "WHY"]);
    for pause in pauses {
        let what = Scope {
            namespace: pause.namespace.clone(),
            task_name: pause.task_name.clone(),
        }
        .name();
        let since = human::time_or_dash(pause.paused_at);
        table.row([what, since, clean(&pause.paused_by), clean(&pause.reason)]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_target_is_a_namespace_or_a_template_without_version() {
        for text in ["shop", "shop/checkout"] {
            assert_eq!(scope(text).expect(text).name(), text);
        }
        for wrong in [
            "",
            "/",
            "/checkout",
            "shop/",
            "shop/a/b",
            "shop/checkout@1.0.0",
        ] {
            assert!(scope(wrong).is_err(), "{wrong}");
        }
    }
}
