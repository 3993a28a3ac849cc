//! One order for many tasks.

use std::pin::Pin;

use futures_util::{Stream, StreamExt as _};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::{
    actor::{actor, inquirer},
    convert, error, find,
};
use crate::{
    domain::{attempt::MAX_ERROR_CODE_BYTES, order::Order},
    engine::{BulkCommand, BulkProgress, Engine},
    proto,
    store::bulk::BulkFilter,
};

/// The stream of progress to the caller.
pub type OrderStream =
    Pin<Box<dyn Stream<Item = Result<proto::OrderTasksResponse, Status>> + Send>>;

/// Gives a bulk order; the stream reports its progress.
pub async fn give(engine: &Engine, r: proto::OrderTasksRequest) -> Result<OrderStream, Status> {
    let words = if r.dry_run { inquirer } else { actor };
    let actor = words(r.by.clone(), r.reason.clone())?;
    let command = BulkCommand {
        order: order(&r)?,
        filter: filter(engine, r.filter.unwrap_or_default()).await?,
        actor,
        dry_run: r.dry_run,
    };
    let reports = engine
        .command_all(command)
        .await
        .map_err(|e| error::store(&e))?;
    let reports = ReceiverStream::new(reports);
    Ok(Box::pin(
        reports.map(|report| report.map(progress).map_err(error::bulk)),
    ))
}

fn progress(p: BulkProgress) -> proto::OrderTasksResponse {
    proto::OrderTasksResponse {
        total: p.total,
        followed: p.followed,
        refused: p.refused,
        last_refusal: p.last_refusal,
        done: p.done,
    }
}

async fn filter(engine: &Engine, f: proto::TaskFilter) -> Result<BulkFilter, Status> {
    if f == proto::TaskFilter::default() {
        return Err(error::invalid(
            "filter",
            "empty: expected at least one field, so that no order reaches all tasks by mistake",
        ));
    }
    for (field, text) in [
        ("namespace", &f.namespace),
        ("task_name", &f.task_name),
        ("correlation_id", &f.correlation_id),
    ] {
        convert::name(field, text)?;
    }
    if f.error_code.len() > MAX_ERROR_CODE_BYTES {
        return Err(error::invalid(
            "error_code",
            format!("expected at most {MAX_ERROR_CODE_BYTES} bytes"),
        ));
    }
    let version = convert::version(&f.version)?;
    let templates =
        find::template_ids(engine, &f.namespace, &f.task_name, version.as_ref()).await?;
    Ok(BulkFilter {
        templates,
        correlation_id: non_empty(f.correlation_id),
        error_code: non_empty(f.error_code),
        failed_after: convert::time("failed_after", f.failed_after)?,
        submitted_after: convert::time("submitted_after", f.submitted_after)?,
        submitted_before: convert::time("submitted_before", f.submitted_before)?,
        ..BulkFilter::default()
    })
}

fn non_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn order(r: &proto::OrderTasksRequest) -> Result<Order, Status> {
    use proto::BulkOrder as B;
    Ok(match B::try_from(r.order) {
        Ok(B::Retry) => Order::Retry {
            step: None,
            fresh: r.fresh_attempts,
        },
        Ok(B::Cancel) => Order::Cancel,
        Ok(B::Pause) => Order::Pause,
        Ok(B::Resume) => Order::Resume,
        Ok(B::Resolve) => Order::ResolveTask,
        Ok(B::Unspecified) | Err(_) => {
            return Err(error::invalid(
                "order",
                format!("{} is not an order: see BulkOrder", r.order),
            ));
        }
    })
}
