//! Orders about one task, as calls.

use tasker::{client::Client, domain::order::Order, proto};
use tonic::Status;

/// Gives it, and returns the task as it is after it.
pub async fn give(
    client: &mut Client,
    task_id: &str,
    order: Order,
    by: &str,
    reason: &str,
) -> Result<proto::Task, Status> {
    let tasks = &mut client.tasks;
    let (task_id, by, reason) = (task_id.to_owned(), by.to_owned(), reason.to_owned());
    let none = String::new();
    let task = match order {
        Order::Cancel => {
            tasks
                .cancel_task(proto::CancelTaskRequest {
                    task_id,
                    by,
                    reason,
                })
                .await?
                .into_inner()
                .task
        }
        Order::Pause => {
            tasks
                .pause_task(proto::PauseTaskRequest {
                    task_id,
                    by,
                    reason,
                })
                .await?
                .into_inner()
                .task
        }
        Order::Resume => {
            tasks
                .resume_task(proto::ResumeTaskRequest {
                    task_id,
                    by,
                    reason,
                })
                .await?
                .into_inner()
                .task
        }
        Order::Retry { step, fresh } => {
            let step = step.unwrap_or_default();
            let request = proto::RetryTaskRequest {
                task_id,
                step,
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
                step: none.clone(),
                result_json: none,
                by,
                reason,
            };
            tasks.resolve_task(request).await?.into_inner().task
        }
        Order::Skip { step } => {
            tasks
                .skip_step(proto::SkipStepRequest {
                    task_id,
                    step,
                    by,
                    reason,
                })
                .await?
                .into_inner()
                .task
        }
    };
    Ok(task.expect("a task"))
}
