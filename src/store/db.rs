//! The server's access to Postgres: one URL, one schema, a small pool for reads and dedicated
//! connections for the engine.

use std::{sync::Arc, time::Duration};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::{AsyncMessage, Client};

use super::{
    StoreError,
    collision_metrics::CollisionMetrics,
    connect::{
        Connector, DEDICATED_SETTINGS, Driver, MIGRATION_SETTINGS, STATEMENT_TIMEOUT_MS, backend,
        serve, transaction_pooler,
    },
    deadline::DeadlineClient,
    pool::{Pool, pool},
};

/// Limit on a read, the wait for a connection included, after which the caller gets UNAVAILABLE.
/// Nothing else detects a database that accepts connections and never answers.
pub const READ_LIMIT: Duration = Duration::from_millis(2_500);
/// Number of pooled connections that may run queries of seconds, so that the others stay free for
/// short ones.
const LONG_READS: usize = 2;
/// Number of rounds in which the backends of two connections are compared.
const POOLER_ROUNDS: usize = 3;

/// A database and the schema in it that holds one cell of Tasker.
#[derive(Clone)]
pub struct Db {
    connector: Connector,
    pool: Pool,
    long_reads: Arc<Semaphore>,
    schema: String,
    collisions: Arc<CollisionMetrics>,
}

impl Db {
    /// Parses the URL without connecting. `schema` is `[a-z_][a-z0-9_]*`, at most 48 bytes.
    pub fn new(url: &str, schema: &str) -> Result<Self, StoreError> {
        let valid = !schema.is_empty()
            && schema.len() <= 48
            && schema
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
            && !schema.as_bytes()[0].is_ascii_digit();
        if !valid {
            return Err(StoreError::Config(format!(
                "schema `{schema}` is not a plain name: expected [a-z_][a-z0-9_]*, at most 48 bytes"
            )));
        }
        let connector = Connector::new(url.parse()?, schema)?;
        let pool = pool(connector.clone())?;
        let long_reads = Arc::new(Semaphore::new(LONG_READS));
        Ok(Self {
            connector,
            pool,
            long_reads,
            schema: schema.to_owned(),
            collisions: Arc::default(),
        })
    }

    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// The collisions of this process.
    pub fn collisions(&self) -> &CollisionMetrics {
        &self.collisions
    }

    /// The notification channel of this cell; channels are per database, so the schema is part of
    /// the name.
    pub fn channel(&self) -> String {
        format!("tasker_{}", self.schema)
    }

    /// A pooled connection for a read, or for a write as short as one.
    pub async fn read(&self) -> Result<DeadlineClient, StoreError> {
        DeadlineClient::take(&self.pool, READ_LIMIT, None).await
    }

    /// A pooled connection for background work that may take long.
    pub async fn patient(&self) -> Result<DeadlineClient, StoreError> {
        DeadlineClient::take(&self.pool, STATEMENT_LIMIT, None).await
    }

    /// A pooled connection for a query over many rows, with one of the few permits for such
    /// queries. The permit is held until the query has ended, whether or not the caller still waits
    /// for the answer.
    pub async fn long_read(&self) -> Result<DeadlineClient, StoreError> {
        let busy = || StoreError::Connection("other queries take long".into());
        let turn = tokio::time::timeout(READ_LIMIT, Arc::clone(&self.long_reads).acquire_owned());
        let turn: OwnedSemaphorePermit = turn.await.map_err(|_| busy())?.map_err(|_| busy())?;
        DeadlineClient::take(&self.pool, STATEMENT_LIMIT, Some(turn)).await
    }

    /// A dedicated connection for an engine loop, with the planner restricted to index lookups.
    pub async fn connect_dedicated(&self) -> Result<Client, StoreError> {
        let (client, driver, _) = self.connector.connect(DEDICATED_SETTINGS).await?;
        serve(driver);
        Ok(client)
    }

    /// A dedicated connection whose statements may take any time, for migrations.
    pub async fn connect_to_migrate(&self) -> Result<Client, StoreError> {
        let (client, driver, _) = self.connector.connect(MIGRATION_SETTINGS).await?;
        serve(driver);
        Ok(client)
    }

    /// A connection and its driver, for receiving notifications.
    pub async fn connect_raw(&self) -> Result<(Client, Driver), StoreError> {
        let (client, driver, _) = self.connector.connect(&[]).await?;
        Ok((client, driver))
    }

    /// Fails unless each connection has a database process of its own. Behind a pooler that shares
    /// them between transactions, the second of two connections gets the process that the first has
    /// just used, or the first gets another.
    pub async fn require_own_backends(&self) -> Result<(), StoreError> {
        let (one, another) = tokio::try_join!(self.connect_dedicated(), self.connect_dedicated())?;
        let first = (backend(&one).await?, backend(&another).await?);
        for _ in 0..POOLER_ROUNDS {
            let now = (backend(&one).await?, backend(&another).await?);
            if now != first || now.0 == now.1 {
                return Err(StoreError::Unfit(transaction_pooler(
                    "two connections share a process of the database",
                )));
            }
        }
        Ok(())
    }
}

/// Limit on a session for a long query.
const STATEMENT_LIMIT: Duration = Duration::from_millis(STATEMENT_TIMEOUT_MS as u64);

/// The message kinds that [`Db::connect_raw`]'s driver yields.
pub type Message = AsyncMessage;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_schema_or_url_is_refused_with_the_expectation() {
        for schema in ["", "1a", "a-b", "A", "a;drop", &"a".repeat(49)] {
            assert!(
                Db::new("postgres://u@127.0.0.1/d", schema).is_err(),
                "{schema}"
            );
        }
        for url in ["", "mysql://x", "postgres://u@127.0.0.1:notaport/d"] {
            let error = Db::new(url, "tasker")
                .err()
                .map(|e| e.to_string())
                .unwrap_or_default();
            assert!(error.contains("expected postgres://"), "{url}: {error}");
        }
        let missing = Db::new(
            "postgres://u@127.0.0.1/d?sslrootcert=/nowhere/ca.pem",
            "tasker",
        )
        .err()
        .unwrap();
        assert!(
            missing
                .to_string()
                .starts_with("sslrootcert /nowhere/ca.pem: cannot be read"),
            "{missing}"
        );
    }
}
