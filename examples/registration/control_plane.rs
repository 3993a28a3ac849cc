//! The connection to the control plane, and starting one where there is none.

use std::{env, net::TcpListener, path::PathBuf, time::Duration};

use anyhow::{Context as _, bail, ensure};
use tasker::proto::{
    RegisterTemplateRequest, task_service_client::TaskServiceClient, template_service_client::TemplateServiceClient,
};
use tokio::process::Command;
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};

use crate::process::Supervised;

/// The workflow, exactly as the article has it.
pub const TEMPLATE: &str = include_str!("user_registration.yaml");
pub const NAMESPACE: &str = "user_management";
pub const TASK_NAME: &str = "user_registration";

/// How long one call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may take to come up.
const READY_LIMIT: Duration = Duration::from_secs(60);

/// The services of one control plane; clones share a connection, which comes back by itself.
#[derive(Clone)]
pub struct ControlPlane {
    pub tasks: TaskServiceClient<Channel>,
    templates: TemplateServiceClient<Channel>,
}

impl ControlPlane {
    /// Opens nothing yet.
    pub fn at(url: &str) -> anyhow::Result<Self> {
        let channel = Endpoint::from_shared(url.to_owned())
            .with_context(|| format!("`{url}` is not the URL of a server"))?
            .timeout(CALL_TIMEOUT)
            .connect_lazy();
        Ok(Self { tasks: TaskServiceClient::new(channel.clone()), templates: TemplateServiceClient::new(channel) })
    }

    /// Registers the workflow as soon as the server answers. Registering it again changes nothing.
    pub async fn register_template(&self) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + READY_LIMIT;
        loop {
            let request = RegisterTemplateRequest { yaml: TEMPLATE.to_owned() };
            match self.templates.clone().register_template(request).await {
                Ok(_) => return Ok(()),
                Err(status) if is_transient(status.code()) && tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(status) if is_transient(status.code()) => {
                    bail!("the control plane did not answer within {READY_LIMIT:?}: {}", status.message())
                }
                Err(status) => bail!("the workflow was refused ({:?}): {}", status.code(), status.message()),
            }
        }
    }
}

/// Whether the same call may succeed a little later: the server restarts, or has lost its database for a moment.
pub fn is_transient(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Aborted)
}

/// A control plane of our own: a server process on a private Postgres.
pub struct PrivateControlPlane {
    url: String,
    server: Supervised,
}

impl PrivateControlPlane {
    /// Starts both; the server may still be on its way up.
    pub async fn start(tasker: Option<PathBuf>, port: u16) -> anyhow::Result<Self> {
        let program = tasker.map_or_else(beside_this_program, Ok)?;
        let port = if port == 0 { free_port()? } else { port };
        let address = format!("127.0.0.1:{port}");
        let listen = address.clone();
        let server = Supervised::start("control plane".to_owned(), move || {
            let mut command = Command::new(&program);
            command.args(["dev", "--ephemeral", "--listen", &listen]);
            command
        });
        Ok(Self { url: format!("http://{address}"), server })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Resolves when the control plane does not stay up.
    pub fn given_up(&self) -> impl Future<Output = ()> + use<> {
        self.server.given_up()
    }

    pub async fn stop(self) {
        self.server.stop().await;
    }
}

/// Cargo puts the program one folder above its examples.
fn beside_this_program() -> anyhow::Result<PathBuf> {
    let program = env::current_exe()?.ancestors().nth(2).context("this program lies in no folder")?.join("tasker");
    ensure!(program.exists(), "{} is missing; build it (cargo build) or name it with --tasker", program.display());
    Ok(program)
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
