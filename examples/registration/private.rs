//! The demo's own control plane: a `tasker server` on a private Postgres. Either may be killed, and
//! is started again.

use std::{env, path::PathBuf, time::Duration};

use anyhow::Context as _;
use tasker_devdb::{Cluster, Options};
use tokio::{process::Command, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::{place::Place, process::Supervised};

/// How long the server waits for running steps when the demo ends.
const DRAIN_SECONDS: &str = "5";
const PAUSE: Duration = Duration::from_millis(500);

/// Both processes.
pub struct PrivateControlPlane {
    url: String,
    server: Supervised,
    postgres: JoinHandle<()>,
    stop_postgres: CancellationToken,
}

impl PrivateControlPlane {
    /// Starts both. Postgres is up on return; the server may still be starting.
    pub async fn start(tasker: Option<PathBuf>, port: u16) -> anyhow::Result<Self> {
        let program = tasker.map_or_else(find_tasker, Ok)?;
        // The probe only finds a free port: the server binds it itself, again after each restart.
        let (probe, url) = Place::HERE_OR_ON_ANY_PORT
            .bind(port, "--server-port")
            .await?;
        let address = probe.local_addr()?.to_string();
        drop(probe);

        let cluster = Cluster::start(Options::default()).await?;
        eprintln!("Postgres {}: process {}", cluster.version(), cluster.pid());
        let database_url = cluster.url();
        let stop_postgres = CancellationToken::new();
        let postgres = tokio::spawn(supervise(cluster, stop_postgres.clone()));
        let server = Supervised::start("tasker server".to_owned(), move || {
            let mut command = Command::new(&program);
            command.args([
                "server",
                "--migrate",
                "--listen",
                &address,
                "--drain-seconds",
                DRAIN_SECONDS,
            ]);
            command.env("TASKER_DATABASE_URL", &database_url);
            if env::var_os("TASKER_LOG").is_none() {
                command.args(["--log", "warn"]);
            }
            command
        });
        Ok(Self {
            url,
            server,
            postgres,
            stop_postgres,
        })
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// Resolves when the server is given up because it does not stay up.
    pub fn given_up(&self) -> impl Future<Output = ()> + use<> {
        self.server.given_up()
    }

    /// The server first: during its shutdown it still writes to its database.
    pub async fn stop(self) {
        self.server.stop().await;
        self.stop_postgres.cancel();
        let _ = self.postgres.await;
    }
}

async fn supervise(mut cluster: Cluster, stop: CancellationToken) {
    while let Some(status) = stop.run_until_cancelled(cluster.ended()).await {
        eprintln!("Postgres ended ({status}); starting it again");
        while let Err(error) = cluster.restart().await {
            eprintln!("{error}");
            if stop.run_until_cancelled(sleep(PAUSE)).await.is_none() {
                return;
            }
        }
        eprintln!("Postgres {}: process {}", cluster.version(), cluster.pid());
    }
    cluster.stop().await;
}

/// The `tasker` program: beside this one where it is installed, one folder up where Cargo builds
/// examples.
fn find_tasker() -> anyhow::Result<PathBuf> {
    let this = env::current_exe().context("where this program is")?;
    let mut candidates = this
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("tasker"));
    candidates
        .find(|program| program.is_file())
        .with_context(|| {
            format!(
                "no `tasker` near {}; build it (cargo build) or name it with --tasker",
                this.display()
            )
        })
}
