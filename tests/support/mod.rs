//! Fixtures of every integration test: a real Postgres, and in it a database for one test.
//!
//! ```ignore
//! mod support;
//! let db = support::TestDb::new().await;      // migrated, empty, used by this test alone
//! let client = db.connect().await;            // or pass db.url() to a server
//! ```
//!
//! All tests of a test binary share one cluster. It runs without fsync and ends with the binary. A
//! test that kills, stops or configures its Postgres starts a cluster of its own with
//! [`own_cluster`].

#![allow(dead_code, reason = "each test binary uses its own part of this")]

pub mod invariants;
pub mod orders;
pub mod process;
pub mod random;
pub mod server;
pub mod worker;

use std::{
    path::{Path, PathBuf},
    sync::Mutex,
};

use tasker::store::{Db, migrate::migrate};
use tasker_devdb::{Cluster, Options};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

/// The default schema of a server.
pub const SCHEMA: &str = "tasker";
const TEMPLATE: &str = "tasker_template";

static SHARED: OnceCell<Cluster> = OnceCell::const_new();
/// Databases of finished tests. The next test drops them, so that a long run does not fill the
/// disk.
static FINISHED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A database for one test.
pub struct TestDb {
    name: String,
    url: String,
}

impl TestDb {
    /// A database with the project's tables.
    pub async fn new() -> Self {
        Self::like(TEMPLATE).await
    }

    /// An empty database, for tests of the migrations themselves.
    pub async fn empty() -> Self {
        Self::like("template1").await
    }

    async fn like(template: &str) -> Self {
        let cluster = shared().await;
        let admin = connect(&cluster.url()).await;
        let finished = std::mem::take(&mut *FINISHED.lock().unwrap());
        for name in finished {
            admin
                .batch_execute(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
                .await
                .unwrap();
        }
        let name = format!("test_{}", Uuid::new_v4().simple());
        admin
            .batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {template}"))
            .await
            .unwrap();
        Self {
            url: cluster.url_of(&name),
            name,
        }
    }

    /// A database in a cluster that the test started for itself.
    pub async fn on(cluster: &Cluster) -> Self {
        let name = "own".to_owned();
        connect(&cluster.url())
            .await
            .batch_execute("CREATE DATABASE own")
            .await
            .unwrap();
        let url = cluster.url_of(&name);
        migrate(&Db::new(&url, SCHEMA).unwrap()).await.unwrap();
        Self { name, url }
    }

    /// The database URL for a server under test.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The database handle for an engine under test.
    pub fn db(&self) -> Db {
        db(&self.url)
    }

    /// A session in this database and in the server's schema, for a test that reads or writes
    /// tables without the server.
    pub async fn connect(&self) -> Client {
        let client = connect(&self.url).await;
        client
            .batch_execute(&format!("SET search_path TO {SCHEMA}"))
            .await
            .unwrap();
        client
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        FINISHED
            .lock()
            .unwrap()
            .push(std::mem::take(&mut self.name));
    }
}

/// The Postgres cluster that the tests of this binary share.
pub async fn shared() -> &'static Cluster {
    SHARED
        .get_or_init(|| async {
            let cluster = own_cluster().await;
            let admin = connect(&cluster.url()).await;
            admin
                .batch_execute(&format!("CREATE DATABASE {TEMPLATE}"))
                .await
                .unwrap();
            migrate(&db(&cluster.url_of(TEMPLATE))).await.unwrap();
            // Postgres does not copy a template database while a session is connected to it.
            let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
            admin.execute(end, &[&TEMPLATE]).await.unwrap();
            cluster
        })
        .await
}

/// A Postgres cluster for one test alone, without fsync.
pub async fn own_cluster() -> Cluster {
    start(own_options()).await
}

/// The options of [`own_cluster`], for a test that changes some of them.
pub fn own_options() -> Options {
    Options {
        durable: false,
        initdb_cache: Some(cache_dir()),
        ..Options::default()
    }
}

pub async fn start(options: Options) -> Cluster {
    Cluster::start(options)
        .await
        .unwrap_or_else(|error| panic!("{error}: {error:?}"))
}

fn db(url: &str) -> Db {
    Db::new(url, SCHEMA).unwrap()
}

/// A session whose connection task runs until the test's runtime ends.
pub async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// The path of a tool that `make test` installs in `target/tools`. A test that needs one is marked
/// `#[ignore = "needs grpcurl: make test"]`; `make test` runs it.
pub fn tool(name: &str) -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools");
    let places = [
        tools.join("bin").join(name),
        tools.join("python/bin").join(name),
    ];
    places
        .into_iter()
        .find(|tool| tool.exists())
        .unwrap_or_else(|| panic!("{name} is missing: run scripts/setup.sh test"))
}

fn cache_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("initdb")
}
