//! `tasker task explain`.

use uuid::Uuid;

use crate::{
    cli::{
        Session,
        error::{CliError, exit},
        render::{
            human,
            table::Table,
            term::{clean, style},
        },
    },
    json,
    proto::{ExplainTaskRequest, ExplainTaskResponse, StepState},
};

/// Explain why a task is in its state, what each step waits for, and what can be done
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tasker task explain 01980f4e-7c1a-7b3e-9d55-0242ac120002
  tasker task explain 01980f4e-7c1a-7b3e-9d55-0242ac120002 --json | jq '.steps[].waits[].cause'")]
pub struct Args {
    /// The task
    #[arg(value_name = "TASK_ID")]
    id: Uuid,
}

pub async fn run(args: Args, session: &Session) -> Result<u8, CliError> {
    let request = ExplainTaskRequest {
        task_id: args.id.to_string(),
    };
    let response = session.connect().await?.tasks.explain_task(request).await;
    let found = response
        .map_err(|s| CliError::from_status(&format!("cannot explain {}", args.id), &s))?
        .into_inner();
    if session.json() {
        session.term.json(&json::value(&found))?;
    } else {
        session.term.data(&text(&found, session))?;
    }
    Ok(exit::OK)
}

fn text(found: &ExplainTaskResponse, session: &Session) -> String {
    let mut out = format!("{}\n", clean(&found.summary));
    if !found.steps.is_empty() {
        let mut table = Table::new(["STEP", "STATE", "WHY"]);
        for step in &found.steps {
            let state = StepState::try_from(step.state).unwrap_or_default();
            let state = session
                .term
                .paint(human::step_style(state), &human::step_state(step.state));
            // The first reason on the step's line, the others below it.
            let late = Some(&step.late_answer).filter(|answer| !answer.is_empty());
            let whys = step.waits.iter().map(|wait| &wait.message).chain(late);
            for (i, why) in whys.enumerate() {
                let (name, state) = if i == 0 {
                    (clean(&step.step), state.clone())
                } else {
                    // A blank, as the table shows an empty cell as `-`.
                    (" ".into(), " ".into())
                };
                table.row([name, state, clean(why)]);
            }
        }
        out += &format!("\n{}", table.render(&session.term));
    }
    if !found.next.is_empty() {
        out += &format!("\n{}\n", session.term.paint(style::BOLD, "Next steps"));
        found
            .next
            .iter()
            .for_each(|next| out += &format!("  {}\n", clean(next)));
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::proto::{StepExplanation, Wait, WaitCause};

    #[test]
    fn json_of_an_explanation_has_causes() {
        let wait = Wait {
            cause: WaitCause::NoWorker.into(),
            message: "no worker".into(),
            ..Wait::default()
        };
        let step = StepExplanation {
            step: "bill".into(),
            waits: vec![wait],
            ..StepExplanation::default()
        };
        let found = ExplainTaskResponse {
            steps: vec![step],
            next: vec!["do".into()],
            ..ExplainTaskResponse::default()
        };
        let document = json::value(&found);
        assert_eq!(
            document["steps"][0]["waits"][0],
            json!({"cause": "no_worker", "message": "no worker", "since": null, "until": null})
        );
        assert_eq!(document["next"], json!(["do"]));
    }
}
