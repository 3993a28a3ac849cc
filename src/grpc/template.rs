//! `tasker.v1.TemplateService`.

use std::cmp::Reverse;

use tasker_template::{Checked, MAX_TEMPLATE_BYTES, Problem};
use tonic::{Code, Request, Response, Status};

use super::{actor::actor, convert, error, page};
use crate::{
    engine::{Engine, Plan, Registered, Resolved, RetireError},
    proto::{self, template_service_server::TemplateService},
};

/// The service over an engine.
pub struct Templates(pub Engine);

#[tonic::async_trait]
impl TemplateService for Templates {
    async fn register_template(
        &self,
        request: Request<proto::RegisterTemplateRequest>,
    ) -> Result<Response<proto::RegisterTemplateResponse>, Status> {
        let proto::RegisterTemplateRequest {
            yaml,
            deny_warnings,
        } = request.into_inner();
        bounded(&yaml)?;
        let registered = self.0.register_template(&yaml, deny_warnings).await;
        let (registered, warnings) = registered.map_err(error::register)?;
        let (plan, created, restored) = match registered {
            Registered::Created(plan) => (plan, true, false),
            Registered::Unchanged(plan) => (plan, false, false),
            Registered::Restored(plan) => (plan, false, true),
            Registered::Taken(plan) => {
                let t = &plan.template;
                return Err(error::status(
                    Code::AlreadyExists,
                    "VERSION_TAKEN",
                    format!(
                        "{}/{} version {} is registered with other content{}, and a version never changes: raise `version`",
                        t.namespace,
                        t.task_name,
                        t.version,
                        other_environment(&plan.environment, self.0.environment())
                    ),
                ));
            }
        };
        let warnings = warnings.into_iter().map(problem).collect();
        let template = Some(convert::template(&plan, None, true));
        Ok(Response::new(proto::RegisterTemplateResponse {
            template,
            created,
            warnings,
            restored,
        }))
    }

    async fn validate_template(
        &self,
        request: Request<proto::ValidateTemplateRequest>,
    ) -> Result<Response<proto::ValidateTemplateResponse>, Status> {
        let yaml = request.into_inner().yaml;
        bounded(&yaml)?;
        let Checked {
            template,
            problems,
            problems_total,
            warnings,
        } = self.0.check_template(&yaml).await;
        Ok(Response::new(proto::ValidateTemplateResponse {
            problems: problems.into_iter().map(problem).collect(),
            template: template.as_ref().map(convert::unregistered),
            problems_total: i32::try_from(problems_total).unwrap_or(i32::MAX),
            warnings: warnings.into_iter().map(problem).collect(),
        }))
    }

    async fn get_template(
        &self,
        request: Request<proto::GetTemplateRequest>,
    ) -> Result<Response<proto::GetTemplateResponse>, Status> {
        let r = request.into_inner();
        let Resolved { plan, retired } = self.find(&r.namespace, &r.task_name, &r.version).await?;
        Ok(Response::new(proto::GetTemplateResponse {
            template: Some(convert::template(&plan, retired.as_deref(), true)),
        }))
    }

    async fn retire_template(
        &self,
        request: Request<proto::RetireTemplateRequest>,
    ) -> Result<Response<proto::RetireTemplateResponse>, Status> {
        let r = request.into_inner();
        for (field, text) in [
            ("namespace", &r.namespace),
            ("task_name", &r.task_name),
            ("version", &r.version),
        ] {
            if text.is_empty() {
                return Err(error::invalid(field, "empty: expected 1 to 255 bytes"));
            }
        }
        let actor = actor(r.by, r.reason)?;
        let Resolved { plan, .. } = self.find(&r.namespace, &r.task_name, &r.version).await?;
        let retired = self.0.retire(&plan, &actor).await;
        let retired = retired.map_err(|error| not_retired(&plan, &error))?;
        Ok(Response::new(proto::RetireTemplateResponse {
            template: Some(convert::template(&plan, Some(&retired), false)),
        }))
    }

    async fn list_templates(
        &self,
        request: Request<proto::ListTemplatesRequest>,
    ) -> Result<Response<proto::ListTemplatesResponse>, Status> {
        let r = request.into_inner();
        let size = page::size(r.page_size, 100, 500)?;
        convert::name("namespace", &r.namespace)?;
        let after = page::place(&r.namespace, &r.page_token)?;
        let after = match after.as_deref().map(place) {
            Some(None) => {
                return Err(error::invalid(
                    "page_token",
                    "not a token of this server: copy `next_page_token` unchanged",
                ));
            }
            place => place.flatten(),
        };
        // By key and not by position, as templates may come and go between two pages.
        let is_after = |plan: &Plan| {
            let t = &plan.template;
            after
                .as_ref()
                .is_none_or(|(namespace, task_name, version)| {
                    (&t.namespace, &t.task_name, &Reverse(t.version.clone()))
                        > (namespace, task_name, version)
                })
        };
        let all = self
            .0
            .templates(&r.namespace, "")
            .await
            .map_err(|e| error::store(&e))?;
        let shown: Vec<_> = all
            .iter()
            .filter(|plan| is_after(plan))
            .map(|plan| (plan, self.0.retirement(plan.template_id)))
            .filter(|(_, retired)| r.include_retired || retired.is_none())
            .take(size + 1)
            .collect();
        let mut templates: Vec<_> = shown
            .iter()
            .take(size)
            .map(|(plan, retired)| convert::template(plan, retired.as_deref(), false))
            .collect();
        templates.truncate(page::fitting(&templates));
        let more = shown.len() > templates.len();
        let next_page_token = match templates
            .len()
            .checked_sub(1)
            .and_then(|last| shown.get(last))
        {
            Some((last, _)) if more => page::token(&r.namespace, &key(last)),
            _ => String::new(),
        };
        Ok(Response::new(proto::ListTemplatesResponse {
            templates,
            next_page_token,
        }))
    }
}

impl Templates {
    async fn find(
        &self,
        namespace: &str,
        task_name: &str,
        version_text: &str,
    ) -> Result<Resolved, Status> {
        let version = convert::version(version_text)?;
        convert::name("namespace", namespace)?;
        convert::name("task_name", task_name)?;
        let found = self
            .0
            .template(namespace, task_name, version.as_ref())
            .await
            .map_err(|e| error::store(&e))?;
        found.ok_or_else(|| {
            let what = if version_text.is_empty() {
                String::new()
            } else {
                format!(" version {version_text}")
            };
            let message = format!("no template {namespace}/{task_name}{what} is registered");
            error::status(Code::NotFound, "TEMPLATE_NOT_FOUND", message)
        })
    }
}

fn not_retired(plan: &Plan, error: &RetireError) -> Status {
    let t = &plan.template;
    let name = format!("{}/{} version {}", t.namespace, t.task_name, t.version);
    match error {
        RetireError::InUse(_) => error::status(
            Code::FailedPrecondition,
            "TEMPLATE_IN_USE",
            format!("{name} is in use: {error}; retire it when they are finished or cancelled"),
        ),
        RetireError::Gone => error::status(
            Code::NotFound,
            "TEMPLATE_NOT_FOUND",
            format!("{name}: {error}"),
        ),
        RetireError::Busy => error::unavailable(&error.to_string()),
        RetireError::Store(error) => error::store(error),
    }
}

/// The position of a template in a list. It stays valid when the template is removed meanwhile.
fn key(plan: &Plan) -> Vec<u8> {
    let t = &plan.template;
    let key = (&t.namespace, &t.task_name, t.version.to_string());
    serde_json::json!(key).to_string().into_bytes()
}

/// The position that such a key names, in the order of the list.
fn place(key: &[u8]) -> Option<(String, String, Reverse<semver::Version>)> {
    let (namespace, task_name, version): (String, String, String) =
        serde_json::from_slice(key).ok()?;
    Some((namespace, task_name, Reverse(version.parse().ok()?)))
}

fn problem(p: Problem) -> proto::TemplateProblem {
    proto::TemplateProblem {
        line: i32::try_from(p.line).unwrap_or(i32::MAX),
        column: i32::try_from(p.column).unwrap_or(i32::MAX),
        path: p.path,
        message: p.message,
    }
}

fn bounded(yaml: &str) -> Result<(), Status> {
    if yaml.len() > MAX_TEMPLATE_BYTES {
        let message = format!(
            "{} bytes: expected at most {MAX_TEMPLATE_BYTES}",
            yaml.len()
        );
        return Err(error::invalid("yaml", message));
    }
    Ok(())
}

/// Names both environments where a template was registered in another one than this server's.
fn other_environment(registered: &str, here: &str) -> String {
    let name = |environment: &str| {
        if environment.is_empty() {
            "none".to_owned()
        } else {
            format!("`{environment}`")
        }
    };
    if registered == here {
        return String::new();
    }
    format!(
        " (in environment {}, and this server's is {})",
        name(registered),
        name(here)
    )
}
