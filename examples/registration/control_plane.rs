//! The connection to the control plane, and the workflow that it runs.

use std::time::Duration;

use anyhow::{Context as _, bail};
use tasker_worker::proto::{
    RegisterTemplateRequest, circuit_service_client::CircuitServiceClient,
    task_service_client::TaskServiceClient, template_service_client::TemplateServiceClient,
};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

/// The workflow, exactly as in the article.
pub const TEMPLATE: &str = include_str!("user_registration.yaml");
pub const NAMESPACE: &str = "user_management";
pub const TASK_NAME: &str = "user_registration";

/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may take to come up.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// The services of one control plane; clones share a connection, which reconnects by itself.
#[derive(Clone)]
pub struct ControlPlane {
    pub tasks: TaskServiceClient<Channel>,
    pub circuits: CircuitServiceClient<Channel>,
    templates: TemplateServiceClient<Channel>,
}

impl ControlPlane {
    /// Opens no connection yet.
    pub fn at(url: &str) -> anyhow::Result<Self> {
        let channel = Endpoint::from_shared(url.to_owned())
            .with_context(|| format!("`{url}` is not the URL of a server"))?
            .timeout(CALL_TIMEOUT)
            .connect_lazy();
        Ok(Self {
            tasks: TaskServiceClient::new(channel.clone()),
            circuits: CircuitServiceClient::new(channel.clone()),
            templates: TemplateServiceClient::new(channel),
        })
    }

    /// Registers the workflow as soon as the server answers. Registering it again changes nothing.
    pub async fn register_template(&self) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + READY_LIMIT;
        loop {
            let request = RegisterTemplateRequest {
                yaml: TEMPLATE.to_owned(),
                deny_warnings: false,
            };
            match self.templates.clone().register_template(request).await {
                Ok(_) => return Ok(()),
                Err(status)
                    if is_transient(status.code()) && tokio::time::Instant::now() < deadline =>
                {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(status) if is_transient(status.code()) => {
                    bail!(
                        "the control plane did not answer within {READY_LIMIT:?}: {}",
                        status.message()
                    )
                }
                Err(status) => bail!(
                    "the workflow was refused ({:?}): {}",
                    status.code(),
                    status.message()
                ),
            }
        }
    }
}

/// Whether the same call may succeed a little later: the server restarts, or has lost its database
/// for a moment.
pub fn is_transient(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Aborted
    )
}
