//! The orders of operators to tasks: their sending and their results.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::{
    cli::{
        Session,
        args::target::Many,
        error::{CliError, exit},
        render::{human, term::clean},
    },
    json,
    proto::{BulkOrder, OrderTasksRequest, OrderTasksResponse, Task},
};

/// Interval between progress reports of an order to many tasks.
const PROGRESS: Duration = Duration::from_millis(500);

/// Reports the state of the task after the order.
pub fn report(task: Option<Task>, session: &Session) -> Result<u8, CliError> {
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

/// Sends the order, reports its progress on stderr, and prints its result.
pub async fn send(
    many: Many,
    order: BulkOrder,
    fresh: bool,
    session: &Session,
) -> Result<u8, CliError> {
    let dry_run = many.dry_run;
    let request = OrderTasksRequest {
        filter: Some(many.filter),
        order: order.into(),
        fresh_attempts: fresh,
        by: many.by,
        reason: many.reason,
        dry_run,
    };
    let mut client = session.connect().await?;
    // Outside of the future, so that the last progress is known after Ctrl-C.
    let mut result = OrderTasksResponse::default();
    let follow = async {
        let mut stream = client.tasks.order_tasks(request).await?.into_inner();
        let mut reported: Option<Instant> = None;
        while let Some(progress) = stream.message().await? {
            result = progress;
            if !dry_run && reported.is_none_or(|at| at.elapsed() >= PROGRESS) {
                reported = Some(Instant::now());
                let processed = result.followed + result.refused;
                session
                    .term
                    .say(&format!("{processed} of {}", result.total));
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
    // In any case, since the tasks processed so far keep the order.
    print(order, dry_run, &result, session)?;
    let rest =
        "the tasks processed so far keep the order; the same command continues with the rest";
    match ended {
        None => {
            session.term.say(&format!("\nstopped: {rest}"));
            Ok(exit::INTERRUPTED)
        }
        Some(Err(status)) => {
            Err(CliError::from_status("the order was interrupted", &status).hint(rest))
        }
        // A stream without the final message was cut, such as by a proxy with a time limit.
        Some(Ok(())) if !result.done => Err(CliError::new(
            exit::UNAVAILABLE,
            "the server ended the stream before the end of the order",
        )
        .hint(rest)),
        Some(Ok(())) => Ok(if result.refused > 0 {
            exit::FAILURE
        } else {
            exit::OK
        }),
    }
}

/// Prints the result of an order: how many tasks followed it, and how many refused.
fn print(
    order: BulkOrder,
    dry_run: bool,
    result: &OrderTasksResponse,
    session: &Session,
) -> Result<(), CliError> {
    if session.json() {
        let mut document = json::value(result);
        document["dry_run"] = Value::Bool(dry_run);
        session.term.json(&document)?;
        return Ok(());
    }
    session.term.data(&summary(order, dry_run, result))?;
    Ok(())
}

fn summary(order: BulkOrder, dry_run: bool, result: &OrderTasksResponse) -> String {
    let verb = match order {
        BulkOrder::Retry => "retried",
        BulkOrder::Cancel => "cancelled",
        BulkOrder::Pause => "paused",
        BulkOrder::Resume => "resumed",
        BulkOrder::Resolve => "resolved",
        BulkOrder::Unspecified => "left unchanged",
    };
    let OrderTasksResponse {
        total,
        followed,
        refused,
        last_refusal,
        ..
    } = result;
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
    use super::*;

    #[test]
    fn summary_with_refusals_counts_them_and_shows_the_last() {
        let result = OrderTasksResponse {
            total: 3,
            followed: 2,
            refused: 1,
            last_refusal: "the task is\ncomplete".into(),
            done: true,
        };
        assert_eq!(
            summary(BulkOrder::Retry, false, &result),
            "2 of 3 tasks retried, 1 refused: the task is complete"
        );
        assert_eq!(
            summary(BulkOrder::Pause, true, &result),
            "3 tasks would be paused"
        );
    }
}
