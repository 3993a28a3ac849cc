//! `/tasker/tasks` and `/tasker/pauses`.

use axum::http::Method;
use futures_util::{Stream, StreamExt as _};
use tonic::{Response, Status};

use super::route::{Route, once, route};
use crate::{
    grpc::{error, task::Tasks},
    proto::{OrderTasksResponse, task_service_server::TaskService as _},
};

pub fn routes() -> Vec<Route> {
    vec![
        route!(POST "/tasker/tasks" => Tasks.submit_task, "TaskService/SubmitTask"),
        route!(GET "/tasker/tasks" => Tasks.list_tasks, "TaskService/ListTasks"),
        route!(GET "/tasker/tasks/{task_id}" => Tasks.get_task, "TaskService/GetTask"),
        route!(GET "/tasker/tasks/{task_id}/steps/{step}" => Tasks.get_step, "TaskService/GetStep"),
        route!(GET "/tasker/tasks/{task_id}/explain" => Tasks.explain_task, "TaskService/ExplainTask"),
        route!(POST "/tasker/tasks/{task_id}/cancel" => Tasks.cancel_task, "TaskService/CancelTask"),
        route!(POST "/tasker/tasks/{task_id}/retry" => Tasks.retry_task, "TaskService/RetryTask"),
        route!(POST "/tasker/tasks/{task_id}/resolve" => Tasks.resolve_task, "TaskService/ResolveTask"),
        route!(POST "/tasker/tasks/{task_id}/skip" => Tasks.skip_step, "TaskService/SkipStep"),
        route!(POST "/tasker/tasks/{task_id}/pause" => Tasks.pause_task, "TaskService/PauseTask"),
        route!(POST "/tasker/tasks/{task_id}/resume" => Tasks.resume_task, "TaskService/ResumeTask"),
        once(
            Method::POST,
            "/tasker/tasks/order",
            "TaskService/OrderTasks",
            |e, r| async move { last(Tasks(e).order_tasks(r).await?.into_inner()).await },
        ),
        route!(GET "/tasker/pauses" => Tasks.list_pauses, "TaskService/ListPauses"),
        route!(POST "/tasker/pauses" => Tasks.pause_template, "TaskService/PauseTemplate"),
        route!(POST "/tasker/pauses/lift" => Tasks.resume_template, "TaskService/ResumeTemplate"),
    ]
}

/// The final message of a bulk order, which over HTTP has a single answer. A caller that
/// disconnects stops the order, and may repeat it.
async fn last(
    mut told: impl Stream<Item = Result<OrderTasksResponse, Status>> + Unpin,
) -> Result<Response<OrderTasksResponse>, Status> {
    // A stream that ends without a message would be a fault of the server.
    let mut last = Err(error::internal());
    while let Some(news) = told.next().await {
        last = Ok(Response::new(news?));
    }
    last
}
