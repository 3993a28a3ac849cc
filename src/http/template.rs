//! `/tasker/templates`.

use axum::http::Method;

use super::route::{Route, route};
use crate::{grpc::template::Templates, proto::template_service_server::TemplateService as _};

pub fn routes() -> Vec<Route> {
    vec![
        route(Method::POST, "/tasker/templates", "TemplateService/RegisterTemplate", |e, r| async move {
            Templates(e).register_template(r).await
        })
        .or_yaml("yaml"),
        route(Method::GET, "/tasker/templates", "TemplateService/ListTemplates", |e, r| async move {
            Templates(e).list_templates(r).await
        }),
        route(
            Method::GET,
            "/tasker/templates/{namespace}/{task_name}",
            "TemplateService/GetTemplate",
            |e, r| async move { Templates(e).get_template(r).await },
        ),
    ]
}
