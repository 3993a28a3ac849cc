//! One order for many tasks: page by page, each page in the settle loop's batches.

use std::{collections::HashSet, time::Duration};

use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use uuid::Uuid;

use super::{
    actor::{actor, inquirer},
    convert, error, find,
};
use crate::{
    domain::{
        attempt::MAX_ERROR_CODE_BYTES,
        order::{Order, OrderError},
        task::TaskState,
    },
    engine::{Engine, decide::input::Input},
    proto,
    store::{
        bulk::{self, BulkFilter, MAX_COUNTED},
        service::Actor,
    },
};

/// Tasks per portion.
const PORTION: i64 = 500;
/// Limit on the commit of a portion.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The stream of progress to the caller.
pub type OrderStream = ReceiverStream<Result<proto::OrderTasksResponse, Status>>;

/// Starts a bulk order; the stream reports its progress.
pub async fn give(engine: &Engine, r: proto::OrderTasksRequest) -> Result<OrderStream, Status> {
    let words = if r.dry_run { inquirer } else { actor };
    let Actor { by, reason } = words(r.by.clone(), r.reason.clone())?;
    let order = order(&r)?;
    let filter = filter(engine, r.filter.unwrap_or_default(), &order).await?;
    let total = bulk::count(&engine.context.db, &filter)
        .await
        .map_err(|e| error::store(&e))?;
    let told = proto::OrderTasksResponse {
        total,
        done: r.dry_run,
        ..Default::default()
    };
    // A small buffer: the walk stops while the caller does not read.
    let (sender, stream) = mpsc::channel(4);
    let _ = sender.send(Ok(told.clone())).await;
    if !r.dry_run {
        let bulk = Bulk {
            engine: engine.clone(),
            filter,
            order,
            by,
            reason,
            told,
        };
        // The call returns with the stream while the walk goes on; the drop of the stream ends it.
        tokio::spawn(bulk.run(sender));
    }
    Ok(ReceiverStream::new(stream))
}

async fn filter(
    engine: &Engine,
    f: proto::TaskFilter,
    order: &Order,
) -> Result<BulkFilter, Status> {
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
    // Only tasks that the order can change are selected, so the total is the most that it can
    // reach.
    let (states, paused): (&[TaskState], Option<bool>) = match order {
        Order::Retry { .. } | Order::ResolveTask => (&[TaskState::Error], None),
        Order::Pause => (&[TaskState::Pending, TaskState::InProgress], Some(false)),
        Order::Resume => (&[TaskState::Pending, TaskState::InProgress], Some(true)),
        _ => (&[TaskState::Pending, TaskState::InProgress], None),
    };
    Ok(BulkFilter {
        templates,
        states: states.to_vec(),
        paused,
        correlation_id: non_empty(f.correlation_id),
        error_code: non_empty(f.error_code),
        failed_after: convert::time("failed_after", f.failed_after)?,
        submitted_after: convert::time("submitted_after", f.submitted_after)?,
        submitted_before: convert::time("submitted_before", f.submitted_before)?,
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

/// A bulk order in progress.
struct Bulk {
    engine: Engine,
    filter: BulkFilter,
    order: Order,
    by: String,
    reason: String,
    told: proto::OrderTasksResponse,
}

impl Bulk {
    /// Ends when no selected task is left, or when the caller is gone.
    async fn run(mut self, sender: mpsc::Sender<Result<proto::OrderTasksResponse, Status>>) {
        let mut after = Uuid::nil();
        // The walk only goes forward, so a task that refused the order is not tried again.
        loop {
            let tasks =
                match bulk::page(&self.engine.context.db, &self.filter, after, PORTION).await {
                    Ok(tasks) => tasks,
                    Err(error) => return drop(sender.send(Err(error::store(&error))).await),
                };
            let Some(last) = tasks.last() else { break };
            after = *last;
            if let Err(status) = self.portion(tasks).await {
                return drop(sender.send(Err(status)).await);
            }
            if sender.send(Ok(self.told.clone())).await.is_err() {
                return;
            }
        }
        self.told.done = true;
        let _ = sender.send(Ok(self.told)).await;
    }

    async fn portion(&mut self, tasks: Vec<Uuid>) -> Result<(), Status> {
        let mut answers = Vec::with_capacity(tasks.len());
        // All inputs are queued before the first answer is awaited, so the settle loop commits them
        // in few batches.
        for task_id in tasks.into_iter().collect::<HashSet<_>>() {
            let (reply, answer) = oneshot::channel();
            let (order, by, reason) = (self.order.clone(), self.by.clone(), self.reason.clone());
            let input = Input::Order {
                task_id,
                order,
                by,
                reason,
                reply,
            };
            self.engine
                .settle
                .push(input)
                .await
                .map_err(error::closed)?;
            answers.push(answer);
        }
        let settled = async {
            for answer in answers {
                match answer
                    .await
                    .map_err(|_| error::unavailable("the server is shutting down"))?
                {
                    Ok(()) => self.told.followed += 1,
                    // The database is at fault and not this task, so the walk ends; other errors
                    // concern one task only.
                    Err(error @ OrderError::Failed(_)) => return Err(error::order(error)),
                    Err(error) => {
                        self.told.refused += 1;
                        self.told.last_refusal = error.to_string();
                    }
                }
            }
            Ok(())
        };
        // The orders stay queued and may still be stored. A repetition skips the tasks that they
        // changed, since these no longer match the filter.
        let late = || {
            error::unavailable(
                "the database did not confirm the orders in time; repeat the request for the rest",
            )
        };
        tokio::time::timeout(TIMEOUT, settled)
            .await
            .unwrap_or_else(|_| Err(late()))
    }
}

const _: () = assert!(MAX_COUNTED == 1_000_000, "the protocol says this number");
