//! A Postgres that a test may kill, or whose statements it counts.

use tasker::store::{Db, migrate};
use tasker_devdb::{Cluster, Options};
use tokio_postgres::Client;

use crate::support::{self, SCHEMA};

/// A cluster for one test, with a migrated database.
pub async fn migrated() -> Cluster {
    migrated_with(support::own_options()).await
}

/// A cluster that logs every statement, for [`statements`].
pub async fn counting() -> Cluster {
    let settings = vec![("log_statement".to_owned(), "all".to_owned())];
    migrated_with(Options {
        settings,
        ..support::own_options()
    })
    .await
}

async fn migrated_with(options: Options) -> Cluster {
    let cluster = support::start(options).await;
    migrate::migrate(&Db::new(&cluster.url(), SCHEMA).unwrap())
        .await
        .unwrap();
    cluster
}

/// Number of statements executed so far.
pub fn statements(cluster: &Cluster) -> usize {
    let log = std::fs::read_to_string(cluster.log()).unwrap();
    log.lines()
        .filter(|line| line.contains("LOG:  execute ") || line.contains("LOG:  statement: "))
        .count()
}

/// A session in the server's schema.
pub async fn session(url: &str) -> Client {
    let client = support::connect(url).await;
    client
        .batch_execute(&format!("SET search_path TO {SCHEMA}"))
        .await
        .unwrap();
    client
}
