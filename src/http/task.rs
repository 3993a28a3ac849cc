//! `/tasker/tasks`.

use axum::http::Method;

use super::route::{Route, route};
use crate::{grpc::task::Tasks, proto::task_service_server::TaskService as _};

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
    ]
}
