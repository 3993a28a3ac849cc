//! A Postgres that a test may kill.

use tasker::{postgres::Cluster, store::migrate};
use tokio_postgres::Client;

use crate::support::{self, SCHEMA, own_cluster};

/// A cluster of the test's own with a migrated database in it.
pub async fn migrated() -> Cluster {
    let cluster = own_cluster().await;
    migrate::migrate(&tasker::store::Db::new(&cluster.url(), SCHEMA).unwrap()).await.unwrap();
    cluster
}

/// A session in the server's schema.
pub async fn session(url: &str) -> Client {
    let client = support::connect(url).await;
    client.batch_execute(&format!("SET search_path TO {SCHEMA}")).await.unwrap();
    client
}
