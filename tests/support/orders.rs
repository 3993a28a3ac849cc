//! Orders about one task, as calls.

use tasker::{domain::order::Order, proto};
use tasker_worker::client::Client;
use tonic::Status;

/// Calls the rpc of the order and returns the task as of its commit.
pub async fn give(
    client: &mut Client,
    task_id: &str,
    order: Order,
    by: &str,
    reason: &str,
) -> Result<proto::Task, Status> {
    let tasks = &mut client.tasks;
    let (task_id, by, reason) = (task_id.to_owned(), by.to_owned(), reason.to_owned());
    let task = match order {
        Order::Cancel => {
            let request = proto::CancelTaskRequest {
                task_id,
                by,
                reason,
            };
            tasks.cancel_task(request).await?.into_inner().task
        }
        Order::Pause => {
            let request = proto::PauseTaskRequest {
                task_id,
                by,
                reason,
            };
            tasks.pause_task(request).await?.into_inner().task
        }
        Order::Resume => {
            let request = proto::ResumeTaskRequest {
                task_id,
                by,
                reason,
            };
            tasks.resume_task(request).await?.into_inner().task
        }
        Order::Retry { step, fresh } => {
            let request = proto::RetryTaskRequest {
                task_id,
                step: step.unwrap_or_default(),
                fresh_attempts: fresh,
                by,
                reason,
            };
            tasks.retry_task(request).await?.into_inner().task
        }
        Order::ResolveStep { step, result } => {
            let request = proto::ResolveTaskRequest {
                task_id,
                step,
                result_json: result,
                by,
                reason,
            };
            tasks.resolve_task(request).await?.into_inner().task
        }
        Order::ResolveTask => {
            let request = proto::ResolveTaskRequest {
                task_id,
                step: String::new(),
                result_json: String::new(),
                by,
                reason,
            };
            tasks.resolve_task(request).await?.into_inner().task
        }
        Order::Skip { step } => {
            let request = proto::SkipStepRequest {
                task_id,
                step,
                by,
                reason,
            };
            tasks.skip_step(request).await?.into_inner().task
        }
    };
    Ok(task.expect("a task"))
}

/// An order to all tasks of the namespace `t`.
pub fn to_all(order: proto::BulkOrder) -> proto::OrderTasksRequest {
    proto::OrderTasksRequest {
        filter: Some(proto::TaskFilter {
            namespace: "t".into(),
            ..proto::TaskFilter::default()
        }),
        order: order.into(),
        by: "ann".into(),
        reason: "a test".into(),
        ..proto::OrderTasksRequest::default()
    }
}
