//! The target of an order: one task, or all tasks that match a filter.

use std::time::Duration;

use prost_types::Timestamp;
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    cli::{
        Session,
        error::{CliError, exit},
        human,
        term::clean,
        when::when,
        who::WhoUnlessDryRun,
    },
    json,
    proto::{BulkOrder, OrderTasksRequest, OrderTasksResponse, Task, TaskFilter},
};

/// Interval between progress reports of an order to many tasks.
const PROGRESS: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub struct Target {
    /// The task
    #[arg(
        value_name = "TASK_ID",
        required_unless_present = "Filter",
        conflicts_with = "Filter"
    )]
    id: Option<Uuid>,
    #[command(flatten)]
    filter: Filter,
    /// Only report how many tasks the order would be for
    #[arg(
        long,
        requires = "Filter",
        help_heading = "Many tasks instead of one: all that fit"
    )]
    dry_run: bool,
    #[command(flatten)]
    who: WhoUnlessDryRun,
}

#[derive(Debug, clap::Args)]
#[group(multiple = true)]
#[command(next_help_heading = "Many tasks instead of one: all that fit")]
struct Filter {
    /// Tasks of this namespace
    #[arg(long)]
    namespace: Option<String>,
    /// Tasks of templates with this name
    #[arg(long, value_name = "NAME", alias = "task")]
    task_name: Option<String>,
    /// Tasks of this template version
    #[arg(long, value_name = "SEMVER")]
    version: Option<String>,
    /// Tasks with this correlation id
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    /// Tasks that failed with this code: that of the step that failed first, or DEADLINE_EXCEEDED
    #[arg(long, value_name = "CODE")]
    error_code: Option<String>,
    /// Tasks that failed at this time or later: RFC 3339, or how long ago (`90s`, `15m`, `2h`,
    /// `7d`)
    #[arg(long, value_name = "WHEN", value_parser = when)]
    failed_since: Option<Timestamp>,
    /// Tasks submitted at this time or later
    #[arg(long, value_name = "WHEN", value_parser = when, alias = "submitted-since")]
    since: Option<Timestamp>,
    /// Tasks submitted before this time
    #[arg(long, value_name = "WHEN", value_parser = when, alias = "submitted-until")]
    until: Option<Timestamp>,
}

/// One task, with the author and the reason of the order.
pub struct One {
    pub task_id: String,
    pub by: String,
    pub reason: String,
}

impl Target {
    /// The single task, or else the filter for many tasks as the error.
    pub fn one(self) -> Result<One, Box<Many>> {
        let (by, reason) = self.who.resolve();
        match self.id {
            Some(id) => Ok(One {
                task_id: id.to_string(),
                by,
                reason,
            }),
            None => Err(Box::new(Many {
                filter: self.filter.into(),
                dry_run: self.dry_run,
                by,
                reason,
            })),
        }
    }
}

impl From<Filter> for TaskFilter {
    fn from(filter: Filter) -> Self {
        Self {
            namespace: filter.namespace.unwrap_or_default(),
            task_name: filter.task_name.unwrap_or_default(),
            version: filter.version.unwrap_or_default(),
            correlation_id: filter.correlation_id.unwrap_or_default(),
            error_code: filter.error_code.unwrap_or_default(),
            failed_after: filter.failed_since,
            submitted_after: filter.since,
            submitted_before: filter.until,
        }
    }
}

/// Reports the state of the task after the order.
pub fn tell(task: Option<Task>, session: &Session) -> Result<u8, CliError> {
    let task = task.unwrap_or_default();
    if session.json() {
        session
            .term
            .json(&serde_json::json!({"task": json::value(&task)}))?;
    } else {
        let paused = if task.paused_at.is_some() {
            " and paused"
        } else {
            ""
        };
        session.term.say(&format!(
            "{} is {}{paused}, with {}/{} steps complete",
            clean(&task.task_id),
            human::task_state(task.state),
            task.steps_complete,
            task.steps_total
        ));
    }
    Ok(exit::OK)
}

/// A filter for many tasks, with the author and the reason of the order.
pub struct Many {
    filter: TaskFilter,
    dry_run: bool,
    by: String,
    reason: String,
}

impl Many {
    /// Sends the order, reports its progress on stderr, and prints its result.
    pub async fn order(
        self,
        order: BulkOrder,
        fresh: bool,
        session: &Session,
    ) -> Result<u8, CliError> {
        let dry_run = self.dry_run;
        let request = OrderTasksRequest {
            filter: Some(self.filter),
            order: order.into(),
            fresh_attempts: fresh,
            by: self.by,
            reason: self.reason,
            dry_run,
        };
        let mut client = session.connect().await?;
        let mut told = OrderTasksResponse::default();
        let follow = async {
            let mut stream = client.tasks.order_tasks(request).await?.into_inner();
            let mut said: Option<Instant> = None;
            while let Some(news) = stream.message().await? {
                told = news;
                if !dry_run && said.is_none_or(|at| at.elapsed() >= PROGRESS) {
                    said = Some(Instant::now());
                    session.term.say(&format!(
                        "{} of {}",
                        told.followed + told.refused,
                        told.total
                    ));
                }
            }
            Ok(())
        };
        let ended = tokio::select! {
            // First, so that the handler of Ctrl-C is in place before the order starts.
            biased;
            _ = tokio::signal::ctrl_c() => None,
            ended = follow => Some(ended),
        };
        account(order, dry_run, &told, session)?;
        let rest = "what was told stays so; the same command goes on with the rest";
        match ended {
            None => {
                session.term.say(&format!("\nstopped: {rest}"));
                Ok(exit::INTERRUPTED)
            }
            Some(Err(status)) => {
                Err(CliError::from_status("the order did not come to its end", &status).hint(rest))
            }
            Some(Ok(())) if !told.done => Err(CliError::new(
                exit::UNAVAILABLE,
                "the server ended the stream before the order's end",
            )
            .hint(rest)),
            Some(Ok(())) => Ok(if told.refused > 0 {
                exit::FAILURE
            } else {
                exit::OK
            }),
        }
    }
}

/// Prints the result of an order: how many tasks followed it, and how many refused.
fn account(
    order: BulkOrder,
    dry_run: bool,
    told: &OrderTasksResponse,
    session: &Session,
) -> Result<(), CliError> {
    if session.json() {
        let mut document = json::value(told);
        document["dry_run"] = Value::Bool(dry_run);
        session.term.json(&document)?;
        return Ok(());
    }
    session.term.data(&sentence(order, dry_run, told))?;
    Ok(())
}

fn sentence(order: BulkOrder, dry_run: bool, told: &OrderTasksResponse) -> String {
    let verb = match order {
        BulkOrder::Retry => "retried",
        BulkOrder::Cancel => "cancelled",
        BulkOrder::Pause => "paused",
        BulkOrder::Resume => "resumed",
        BulkOrder::Resolve => "resolved",
        BulkOrder::Unspecified => "told nothing",
    };
    let OrderTasksResponse {
        total,
        followed,
        refused,
        last_refusal,
        ..
    } = told;
    if dry_run {
        return format!("{total} tasks would be {verb}");
    }
    let refusals = if *refused > 0 {
        format!(", {refused} refused: {}", clean(last_refusal))
    } else {
        String::new()
    };
    format!("{followed} of {total} tasks {verb}{refusals}")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        target: Target,
    }

    fn parse(line: &[&str]) -> Result<Target, clap::error::ErrorKind> {
        let words = ["retry"]
            .iter()
            .chain(line)
            .chain(&["--by", "ann", "--reason", "why"]);
        Line::try_parse_from(words)
            .map(|line| line.target)
            .map_err(|error| error.kind())
    }

    #[test]
    fn an_order_is_for_one_task_or_for_those_that_fit() {
        use clap::error::ErrorKind as E;
        let id = "01980f4e-7c1a-7b3e-9d55-0242ac120002";
        let one = parse(&[id]).expect("an id").one().ok().expect("one");
        assert_eq!(
            (one.task_id.as_str(), one.by.as_str(), one.reason.as_str()),
            (id, "ann", "why")
        );
        let many =
            parse(&["--namespace", "n", "--failed-since", "1h", "--dry-run"]).expect("a filter");
        let many = many.one().err().expect("many");
        assert!(many.dry_run && many.filter.namespace == "n" && many.filter.failed_after.is_some());
        assert_eq!(parse(&[]).expect_err("nobody"), E::MissingRequiredArgument);
        assert_eq!(
            parse(&["--dry-run"]).expect_err("nobody"),
            E::MissingRequiredArgument
        );
        assert_eq!(
            parse(&[id, "--task", "t"]).expect_err("both"),
            E::ArgumentConflict
        );
    }

    #[test]
    fn the_account_says_who_refused() {
        let told = OrderTasksResponse {
            total: 3,
            followed: 2,
            refused: 1,
            last_refusal: "the task is\ncomplete".into(),
            done: true,
        };
        assert_eq!(
            sentence(BulkOrder::Retry, false, &told),
            "2 of 3 tasks retried, 1 refused: the task is complete"
        );
        assert_eq!(
            sentence(BulkOrder::Pause, true, &told),
            "3 tasks would be paused"
        );
    }
}
