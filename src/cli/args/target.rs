//! The tasks that an order selects: one by its id, or all that match a filter.

use prost_types::Timestamp;
use uuid::Uuid;

use super::{when::when, who::WhoUnlessDryRun};
use crate::proto::TaskFilter;

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
        help_heading = "Many tasks in place of one: all that match"
    )]
    dry_run: bool,
    #[command(flatten)]
    who: WhoUnlessDryRun,
}

#[derive(Debug, clap::Args)]
#[group(multiple = true)]
#[command(next_help_heading = "Many tasks in place of one: all that match")]
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

/// The tasks of an order.
pub enum Selection {
    One(One),
    Many(Box<Many>),
}

/// One task, with the author and the reason of the order.
pub struct One {
    pub task_id: String,
    pub by: String,
    pub reason: String,
}

impl Target {
    /// The selected tasks, with the author and the reason of the order.
    pub fn resolve(self) -> Selection {
        let (by, reason) = self.who.resolve();
        // clap requires an id or a filter, so without an id there is a filter.
        match self.id {
            Some(id) => Selection::One(One {
                task_id: id.to_string(),
                by,
                reason,
            }),
            None => Selection::Many(Box::new(Many {
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

/// A filter for many tasks, with the author and the reason of the order.
pub struct Many {
    pub filter: TaskFilter,
    pub dry_run: bool,
    pub by: String,
    pub reason: String,
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
    fn target_with_an_id_and_a_filter_is_refused_and_either_alone_is_accepted() {
        use clap::error::ErrorKind as E;
        let id = "01980f4e-7c1a-7b3e-9d55-0242ac120002";
        let Selection::One(one) = parse(&[id]).expect("an id").resolve() else {
            panic!("not one task");
        };
        assert_eq!(
            (one.task_id.as_str(), one.by.as_str(), one.reason.as_str()),
            (id, "ann", "why")
        );
        let many =
            parse(&["--namespace", "n", "--failed-since", "1h", "--dry-run"]).expect("a filter");
        let Selection::Many(many) = many.resolve() else {
            panic!("not a filter");
        };
        assert!(many.dry_run && many.filter.namespace == "n" && many.filter.failed_after.is_some());
        assert_eq!(parse(&[]).expect_err("no task"), E::MissingRequiredArgument);
        assert_eq!(
            parse(&["--dry-run"]).expect_err("no task"),
            E::MissingRequiredArgument
        );
        assert_eq!(
            parse(&[id, "--task", "t"]).expect_err("both"),
            E::ArgumentConflict
        );
    }
}
