//! The measured system: a database, a server, workers, and a client, each in its own process.

use tasker_devdb::{Cluster, Options};
use tasker_worker::client::Client;
use uuid::Uuid;

use super::{
    Settings,
    child::{Run, ServerProcess, WorkersProcess},
    cpu::{self, Processes},
    error::Error,
    shapes::{self, Templates},
};
use crate::store::{Db, bench::probes};

/// All parts of the system. A part is dropped before the parts that it depends on.
pub struct Stage {
    pub client: Client,
    pub templates: Templates,
    /// `None` after they were stopped.
    workers: Option<WorkersProcess>,
    pub server: Server,
    pub db: Db,
    pub database: Database,
    /// Ids of tasks submitted from now on are larger.
    pub first_id: Uuid,
    /// The postmaster, if it is on this machine.
    postgres: Option<u32>,
}

/// Where the database is.
pub struct Database {
    pub url: String,
    /// `None`: the user provides the database.
    pub cluster: Option<Cluster>,
}

/// Where the server is.
pub struct Server {
    pub url: String,
    /// `None`: the user provides the server.
    process: Option<ServerProcess>,
}

impl Database {
    /// Starts a private one with durable commits, unless the settings name another.
    pub async fn open(settings: &Settings) -> Result<Self, Error> {
        if let Some(url) = &settings.database_url {
            return Ok(Self {
                url: url.clone(),
                cluster: None,
            });
        }
        let options = Options {
            settings: settings.postgres_settings.clone(),
            ..Options::default()
        };
        let cluster = Cluster::start(options).await?;
        Ok(Self {
            url: cluster.url(),
            cluster: Some(cluster),
        })
    }
}

impl Server {
    async fn open(settings: &Settings, database: &Database) -> Result<Self, Error> {
        if let Some(url) = &settings.server {
            return Ok(Self {
                url: url.clone(),
                process: None,
            });
        }
        let process = ServerProcess::start(&database.url, &settings.schema).await?;
        Ok(Self {
            url: process.url.clone(),
            process: Some(process),
        })
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(ServerProcess::pid)
    }
}

impl Stage {
    /// Starts the parts that the settings do not provide.
    pub async fn set(settings: &Settings, database: Database) -> Result<Self, Error> {
        // Before the server starts: every task of this run has a larger id, also those of the
        // golden shapes.
        let first_id = Uuid::now_v7();
        let server = Server::open(settings, &database).await?;
        let db = Db::new(&database.url, &settings.schema)?;
        let mut client = Client::connect(&server.url).await?;
        let templates = shapes::register(&mut client, &db).await?;
        let workers =
            Some(WorkersProcess::start(&server.url, settings.workers, settings.slots).await?);
        // The postmaster is the parent of this session's process; without one on this machine, its
        // processor time is unknown.
        let backend = probes::mark(&db).await?.backend;
        let postgres = u32::try_from(backend).ok().and_then(cpu::postmaster_of);
        Ok(Self {
            client,
            templates,
            workers,
            server,
            db,
            database,
            first_id,
            postgres,
        })
    }

    /// The processes whose processor time is counted.
    pub fn processes(&self) -> Processes {
        Processes {
            postgres: self.postgres,
            server: self.server.pid(),
            workers: self.workers.as_ref().map(WorkersProcess::pid),
        }
    }

    /// The workers, while they run.
    pub fn workers(&self) -> Result<&WorkersProcess, Error> {
        self.workers
            .as_ref()
            .ok_or_else(|| Error::Stopped("the workers were stopped".into()))
    }

    /// Lets the workers finish, and returns their runs.
    pub async fn stop_workers(&mut self) -> Result<Vec<Run>, Error> {
        match self.workers.take() {
            Some(workers) => workers.stop().await,
            None => Ok(Vec::new()),
        }
    }

    /// The server's resident memory.
    pub fn server_rss_mib(&self) -> Option<f64> {
        cpu::resident_mib(self.server.pid()?)
    }

    /// Ends every part that was started.
    pub async fn strike(self) {
        // Clients before the server, and the server before the database, so that no part fails at
        // its end.
        drop(self.workers);
        if let Some(server) = self.server.process {
            server.stop().await;
        }
        if let Some(cluster) = self.database.cluster {
            cluster.stop().await;
        }
    }
}
