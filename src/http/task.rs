//! `/tasker/tasks` and `/tasker/pauses`.

use axum::http::Method;
use futures_util::{Stream, StreamExt as _};
use tonic::{Response, Status};

use super::route::{Route, route};
use crate::{
    grpc::{error, task::Tasks},
    proto::{OrderTasksResponse, task_service_server::TaskService as _},
};

pub fn routes() -> Vec<Route> {
    vec![
        route(
            Method::POST,
            "/tasker/tasks",
            "TaskService/SubmitTask",
            |e, r| async move { Tasks(e).submit_task(r).await },
        ),
        route(
            Method::GET,
            "/tasker/tasks",
            "TaskService/ListTasks",
            |e, r| async move { Tasks(e).list_tasks(r).await },
        ),
        route(Method::GET, "/tasker/tasks/{task_id}", "TaskService/GetTask", |e, r| async move {
            Tasks(e).get_task(r).await
        }),
        route(Method::GET, "/tasker/tasks/{task_id}/explain", "TaskService/ExplainTask", |e, r| async move {
            Tasks(e).explain_task(r).await
        }),
        route(Method::POST, "/tasker/tasks/{task_id}/cancel", "TaskService/CancelTask", |e, r| async move {
            Tasks(e).cancel_task(r).await
        }),
        route(Method::POST, "/tasker/tasks/{task_id}/retry", "TaskService/RetryTask", |e, r| async move {
            Tasks(e).retry_task(r).await
        }),
        route(Method::POST, "/tasker/tasks/{task_id}/resolve", "TaskService/ResolveTask", |e, r| async move {
            Tasks(e).resolve_task(r).await
        }),
        route(Method::POST, "/tasker/tasks/{task_id}/skip", "TaskService/SkipStep", |e, r| async move {
            Tasks(e).skip_step(r).await
        }),
        route(Method::POST, "/tasker/tasks/{task_id}/pause", "TaskService/PauseTask", |e, r| async move {
            Tasks(e).pause_task(r).await
        }),
        route(Method::POST, "/tasker/tasks/{task_id}/resume", "TaskService/ResumeTask", |e, r| async move {
            Tasks(e).resume_task(r).await
        }),
        route(Method::POST, "/tasker/tasks/order", "TaskService/OrderTasks", |e, r| async move {
            last(Tasks(e).order_tasks(r).await?.into_inner()).await
        }),
        route(
            Method::GET,
            "/tasker/pauses",
            "TaskService/ListPauses",
            |e, r| async move { Tasks(e).list_pauses(r).await },
        ),
        route(Method::POST, "/tasker/pauses", "TaskService/PauseTemplate", |e, r| async move {
            Tasks(e).pause_template(r).await
        }),
        route(Method::POST, "/tasker/pauses/lift", "TaskService/ResumeTemplate", |e, r| async move {
            Tasks(e).resume_template(r).await
        }),
    ]
}

/// The account at the end: over HTTP an order to many is one answer. A caller that goes away stops it, and it can be repeated.
async fn last(
    mut told: impl Stream<Item = Result<OrderTasksResponse, Status>> + Unpin,
) -> Result<Response<OrderTasksResponse>, Status> {
    let mut last = Err(error::internal());
    while let Some(news) = told.next().await {
        last = Ok(Response::new(news?));
    }
    last
}
