//! `tasker task resolve`.

use tasker_template::json_text;

use super::{order, submit::given};
use crate::{
    cli::{
        Session,
        args::target::{One, Selection, Target},
        error::{CliError, exit},
        render::term::clean,
    },
    proto::{BulkOrder, ResolveTaskRequest},
};

/// Set a step's result by hand, or settle a failed task, or many, as it is
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tasker task resolve 01980f4e-7c1a-7b3e-9d55-0242ac120002 --step charge --result '{\"receipt\": 4711}' \\
      --reason 'paid in cash'
  tasker task resolve 01980f4e-7c1a-7b3e-9d55-0242ac120002 --reason 'refunded by hand'
  tasker task resolve --namespace shop --error-code CARD_EXPIRED --reason 'all of them were called'

With --step, the task continues, and the steps after it get the result. Without, a failed task ends as resolved_manually, and none of its steps runs again.")]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// Step to complete by hand; it must be waiting or have failed
    #[arg(long, value_name = "NAME", conflicts_with = "Filter")]
    step: Option<String>,
    /// Its result: JSON, `@FILE` to read it, or `-` for stdin; without it, null
    #[arg(long, value_name = "JSON", requires = "step")]
    result: Option<String>,
}

pub async fn run(args: Args, session: &Session) -> Result<u8, CliError> {
    let One {
        task_id,
        by,
        reason,
    } = match args.target.resolve() {
        Selection::One(one) => one,
        Selection::Many(many) => {
            return order::send(*many, BulkOrder::Resolve, false, session).await;
        }
    };
    let what = format!("cannot resolve {task_id}");
    let result_json = result(args.result)?;
    let step = args.step.unwrap_or_default();
    let request = ResolveTaskRequest {
        task_id,
        step,
        result_json,
        by,
        reason,
    };
    let response = session.connect().await?.tasks.resolve_task(request).await;
    order::report(
        response
            .map_err(|s| CliError::from_status(&what, &s))?
            .into_inner()
            .task,
        session,
    )
}

/// Reads the result's text, which is sent unchanged. Invalid JSON is refused here, where the error
/// can name its source.
fn result(inline: Option<String>) -> Result<String, CliError> {
    let Some(inline) = inline else {
        return Ok(String::new());
    };
    let (source, text) = given("--result", inline)?;
    // Its own length is the limit here: the server enforces the bound on the size.
    json_text::check_document(&text, text.len()).map_err(|e| {
        CliError::new(
            exit::DATA,
            clean(&format!("{source}: the result is wrong: {e}")),
        )
    })?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn result_accepts_any_json_and_refuses_other_text() {
        for json in ["null", "1", r#""text""#, r#"{"n": 9007199254740993}"#] {
            assert_eq!(result(Some(json.into())).expect(json), json);
        }
        assert_eq!(result(None).expect("null by default"), "");
        for wrong in ["", "{", "paid"] {
            assert_eq!(
                result(Some(wrong.into())).expect_err(wrong).code,
                exit::DATA
            );
        }
    }
}
