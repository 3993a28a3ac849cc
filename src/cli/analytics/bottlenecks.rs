//! `tasker analytics bottlenecks`.

use super::{OK, Which, duration, failed, percent, say};
use crate::{
    cli::{
        Session,
        error::CliError,
        render::{table::Table, term::clean},
    },
    json,
    proto::GetBottlenecksRequest,
};

/// Rank the causes that cost tasks the most time, costliest first
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  tasker analytics bottlenecks --namespace user_management --task-name user_registration
  tasker analytics bottlenecks --since 1h --limit 3
  tasker analytics bottlenecks --json | jq -r '.bottlenecks[].message'

COST is the mean time that a cause adds to a task, and SHARE its part of the tasks' critical paths: work off the critical path costs nothing.")]
pub struct Args {
    #[command(flatten)]
    which: Which,
    /// Most causes to list, up to 100
    #[arg(long, value_name = "N", default_value_t = 10, alias = "max")]
    limit: i32,
}

pub async fn run(args: Args, session: &Session) -> Result<u8, CliError> {
    let request = GetBottlenecksRequest {
        namespace: args.which.namespace.unwrap_or_default(),
        task_name: args.which.task_name.unwrap_or_default(),
        version: args.which.version.unwrap_or_default(),
        window_seconds: args.which.window,
        max_tasks: args.which.max_tasks,
        max_bottlenecks: args.limit,
    };
    let response = session
        .connect()
        .await?
        .analytics
        .get_bottlenecks(request)
        .await;
    let found = response.map_err(|s| failed(&s))?.into_inner();
    if session.json() {
        session.term.json(&json::value(&found))?;
        return Ok(OK);
    }
    let mut table = Table::new(["COST", "SHARE", "WHAT"]);
    for b in &found.bottlenecks {
        table.row([
            duration(b.cost_per_task),
            percent(b.critical_share),
            clean(&b.message),
        ]);
    }
    if table.is_empty() {
        session.term.say("no step took measurable time");
    } else {
        session.term.data(&table.render(&session.term))?;
    }
    say(found.examined, session);
    Ok(OK)
}
