//! `/tasker/templates`.

use super::route::{Route, route};
use crate::{grpc::template::Templates, proto::template_service_server::TemplateService as _};

pub fn routes() -> Vec<Route> {
    vec![
        route!(POST "/tasker/templates" => Templates.register_template, "TemplateService/RegisterTemplate")
            .or_yaml("yaml"),
        route!(GET "/tasker/templates" => Templates.list_templates, "TemplateService/ListTemplates"),
        route!(POST "/tasker/templates/{namespace}/{task_name}/{version}/retire" => Templates.retire_template, "TemplateService/RetireTemplate"),
        route!(GET "/tasker/templates/{namespace}/{task_name}" => Templates.get_template, "TemplateService/GetTemplate"),
    ]
}
