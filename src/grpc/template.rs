//! `tasker.v1.TemplateService`.

use tonic::{Code, Request, Response, Status};

use super::{convert, error, page};
use crate::{
    domain::template::{Checked, MAX_TEMPLATE_BYTES, Problem},
    engine::{Engine, catalog::Registered, intake::Violated},
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
        let wake = self.0.peers.template_news();
        let registered = self.0.catalog.register(&yaml, deny_warnings, &wake).await;
        let (registered, warnings) = registered.map_err(error::register)?;
        let (plan, created) = match registered {
            Registered::Created(plan) => (plan, true),
            Registered::Unchanged(plan) => (plan, false),
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
                        other_environment(&plan.environment, self.0.catalog.environment())
                    ),
                ));
            }
        };
        // The template is stored; what cannot be read of its services now is read later.
        if let Err(error) = self.0.templates_changed().await {
            tracing::debug!(%error, "the services of a new template could not be read yet");
        }
        let warnings = warnings.into_iter().map(problem).collect();
        let template = Some(convert::template(&plan, true));
        Ok(Response::new(proto::RegisterTemplateResponse {
            template,
            created,
            warnings,
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
        } = self.0.catalog.check(&yaml).await;
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
        let version = version(&r.version)?;
        convert::name("namespace", &r.namespace)?;
        convert::name("task_name", &r.task_name)?;
        self.0
            .catalog
            .refresh()
            .await
            .map_err(|e| error::store(&e))?;
        let plan = self
            .0
            .catalog
            .resolve(&r.namespace, &r.task_name, version.as_ref())
            .ok_or_else(|| {
                let what = if r.version.is_empty() {
                    String::new()
                } else {
                    format!(" version {}", r.version)
                };
                let message = format!(
                    "no template {}/{}{what} is registered",
                    r.namespace, r.task_name
                );
                error::status(Code::NotFound, "TEMPLATE_NOT_FOUND", message)
            })?;
        Ok(Response::new(proto::GetTemplateResponse {
            template: Some(convert::template(&plan, true)),
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
        self.0
            .catalog
            .refresh()
            .await
            .map_err(|e| error::store(&e))?;
        let all = self.0.catalog.list(&r.namespace, "");
        let key = |plan: &crate::engine::catalog::Plan| plan.template_id.to_be_bytes();
        // A template never disappears, so the place of the last page's last one can always be found.
        let start = match after {
            None => 0,
            Some(last) => {
                1 + all
                    .iter()
                    .position(|plan| key(plan)[..] == last[..])
                    .ok_or_else(|| {
                        error::invalid(
                            "page_token",
                            "not a token of this server: copy `next_page_token` unchanged",
                        )
                    })?
            }
        };
        let shown: Vec<_> = all.iter().skip(start).take(size).collect();
        let mut templates: Vec<_> = shown
            .iter()
            .map(|plan| convert::template(plan, false))
            .collect();
        templates.truncate(page::fitting(&templates));
        let more = all.len() > start + templates.len();
        let next_page_token = match templates
            .len()
            .checked_sub(1)
            .and_then(|last| shown.get(last))
        {
            Some(last) if more => page::token(&r.namespace, &key(last)),
            _ => String::new(),
        };
        Ok(Response::new(proto::ListTemplatesResponse {
            templates,
            next_page_token,
        }))
    }
}

/// A version out of a request; `None` for the newest.
pub fn version(text: &str) -> Result<Option<semver::Version>, Violated> {
    if text.is_empty() {
        return Ok(None);
    }
    convert::name("version", text)?;
    text.parse().map(Some).map_err(|e| Violated {
        field: "version".to_owned(),
        message: format!("`{text:.80}` is not a semantic version such as 1.2.0: {e}"),
    })
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

/// Says so when a template means something else because it was registered elsewhere.
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
