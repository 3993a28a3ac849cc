//! `/tasker/templates`.

use super::route::{Route, get, post};
use crate::{grpc::template::Templates, proto::template_service_server::TemplateService as _};

pub fn routes() -> Vec<Route> {
    vec![
        post("/tasker/templates", "TemplateService/RegisterTemplate", |e, r| async move {
            Templates(e).register_template(r).await
        })
        .or_yaml("yaml"),
        get("/tasker/templates", "TemplateService/ListTemplates", |e, r| async move {
            Templates(e).list_templates(r).await
        }),
        get("/tasker/templates/{namespace}/{task_name}", "TemplateService/GetTemplate", |e, r| async move {
            Templates(e).get_template(r).await
        }),
    ]
}
