//! How the server reaches Postgres: one URL, one schema, a small pool for reads and hand-made connections for the engine.

use std::{str::FromStr, sync::Arc, time::Duration};

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_postgres::{
    AsyncMessage, Client, Config, Connection, Socket,
    config::{Host, SslMode},
    tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{StoreError, counts::Counts, session::Session};

/// Reads (get, list, watch) share this many connections.
const POOL_SIZE: usize = 8;
/// How long a read may take, the wait for a connection included, before the caller hears UNAVAILABLE. A database that
/// accepts and never answers is found out by this and nothing else.
pub const READ_LIMIT: Duration = Duration::from_millis(2_500);
/// So many of the pool's connections may be at a question that takes seconds, so that the others stay for short ones.
const LONG_READS: usize = 2;
/// How long a database may take to let us in. The driver's own limit ends when the socket is open, before the first word.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);
/// What our connections are called in `pg_stat_activity`.
pub(super) const APPLICATION: &str = "tasker";
/// No statement of ours is allowed to run longer, ms.
const STATEMENT_TIMEOUT_MS: u32 = 30_000;
/// Settings of all connections. Statistics of tables that fill and empty by the second mislead the planner: it then reads or
/// hashes a whole table to find a handful of rows. Every statement here is a lookup by key or a bounded walk along an index,
/// so nothing is lost by leaving it no other plan, and none by making that plan once: left to itself Postgres may plan the
/// read of a task anew each time, which takes ten times as long as to read it.
const PLANNER_OPTIONS: &str = "-c enable_hashjoin=off -c enable_mergejoin=off -c enable_seqscan=off -c enable_memoize=off \
                               -c jit=off -c plan_cache_mode=force_generic_plan";
/// More settings of the engine's connections. Between the two halves of a transaction the engine only thinks: a server that stops there,
/// with rows locked, must not hold up the others for longer than that. And whoever waits for a lock holds up all that wait
/// for him, so he gives up early and comes back.
const HOT_OPTIONS: &str = "-c enable_bitmapscan=off -c idle_in_transaction_session_timeout=5000 -c lock_timeout=2000";

/// A database and the schema in it that holds one cell of Tasker.
#[derive(Clone)]
pub struct Db {
    config: Config,
    tls: MakeRustlsConnect,
    pool: Pool,
    long_reads: Arc<Semaphore>,
    schema: String,
    counts: Arc<Counts>,
}

impl Db {
    /// Reads the URL without connecting. `schema` is `[a-z_][a-z0-9_]*`, at most 48 bytes.
    ///
    /// Plain text is for this machine only: a host elsewhere gets TLS with a verified certificate unless the URL says
    /// `sslmode=disable` itself.
    pub fn new(url: &str, schema: &str) -> Result<Self, StoreError> {
        let valid = !schema.is_empty()
            && schema.len() <= 48
            && schema.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
            && !schema.as_bytes()[0].is_ascii_digit();
        if !valid {
            return Err(StoreError::Config(format!(
                "schema `{schema}` is not a plain name: expected [a-z_][a-z0-9_]*, at most 48 bytes"
            )));
        }
        let mut config = Config::from_str(url).map_err(|error| {
            let why = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            StoreError::Config(format!("database URL: {why}; expected postgres://user:password@host:port/database"))
        })?;
        if config.get_hosts().is_empty() {
            return Err(StoreError::Config(
                "database URL: no host; expected postgres://user@host:port/database".into(),
            ));
        }
        if !url.contains("sslmode") {
            config.ssl_mode(if config.get_hosts().iter().all(is_local) { SslMode::Disable } else { SslMode::Require });
        }
        let options = format!(
            "{} {PLANNER_OPTIONS} -c search_path={schema} -c statement_timeout={STATEMENT_TIMEOUT_MS} -c lock_timeout=10000 -c TimeZone=UTC",
            config.get_options().unwrap_or_default()
        );
        config
            .options(options)
            .application_name(APPLICATION)
            .connect_timeout(Duration::from_secs(3))
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3)
            .tcp_user_timeout(Duration::from_secs(20));
        let tls = tls();
        let manager = Manager::from_config(
            config.clone(),
            tls.clone(),
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let pool = Pool::builder(manager)
            .max_size(POOL_SIZE)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| StoreError::Config(error.to_string()))?;
        let long_reads = Arc::new(Semaphore::new(LONG_READS));
        Ok(Self { config, tls, pool, long_reads, schema: schema.to_owned(), counts: Arc::default() })
    }

    /// The schema's name.
    pub fn schema(&self) -> &str {
        &self.schema
    }

    /// The collisions of this process.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// The notification channel of this cell; channels are per database, so the schema is part of the name.
    pub fn channel(&self) -> String {
        format!("tasker_{}", self.schema)
    }

    /// A pooled connection for a read, or for a write as short as one.
    pub async fn read(&self) -> Result<Session, StoreError> {
        Session::take(&self.pool, READ_LIMIT).await
    }

    /// A pooled connection for what takes its time and nobody waits for.
    pub async fn patient(&self) -> Result<Session, StoreError> {
        Session::take(&self.pool, Duration::from_millis(STATEMENT_TIMEOUT_MS.into())).await
    }

    /// A pooled connection for a question over many rows, and the turn to use it: only a few at once.
    pub async fn long_read(&self) -> Result<(SemaphorePermit<'_>, Session), StoreError> {
        let busy = || StoreError::Connection("others ask questions that take long".into());
        let turn = tokio::time::timeout(READ_LIMIT, self.long_reads.acquire()).await.map_err(|_| busy())?;
        Ok((turn.map_err(|_| busy())?, self.patient().await?))
    }

    /// A connection of its own for an engine loop, with the planner held to index lookups.
    pub async fn connect_hot(&self) -> Result<Client, StoreError> {
        let mut config = self.config.clone();
        config.options(format!("{} {HOT_OPTIONS}", config.get_options().unwrap_or_default()));
        let (client, connection) = let_in(config.connect(self.tls.clone())).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an engine connection ended");
            }
        });
        Ok(client)
    }

    /// A connection and its driver, for whoever wants to see notifications.
    pub async fn connect_raw(
        &self,
    ) -> Result<(Client, Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>), StoreError> {
        let_in(self.config.connect(self.tls.clone())).await
    }
}

async fn let_in<T>(connect: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, StoreError> {
    Ok(tokio::time::timeout(CONNECT_LIMIT, connect).await.map_err(|_| StoreError::silent())??)
}

/// The message kinds that [`Db::connect_raw`]'s driver yields.
pub type Message = AsyncMessage;

fn is_local(host: &Host) -> bool {
    match host {
        Host::Tcp(name) => name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
        #[cfg(unix)]
        Host::Unix(_) => true,
    }
}

/// TLS with the machine's own certificates. A machine without any can still use a local database.
fn tls() -> MakeRustlsConnect {
    match MakeRustlsConnect::with_native_certs() {
        Ok((tls, _unreadable)) => tls,
        Err(_none) => {
            let none = rustls::RootCertStore::empty();
            MakeRustlsConnect::new(rustls::ClientConfig::builder().with_root_certificates(none).with_no_client_auth())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_reached_in_plain_text_unasked() {
        let mode = |url: &str| Db::new(url, "tasker").map(|db| db.config.get_ssl_mode()).ok();
        assert_eq!(mode("postgres://u@127.0.0.1/d"), Some(SslMode::Disable));
        assert_eq!(mode("postgres://u@db.example.com/d"), Some(SslMode::Require));
        assert_eq!(mode("postgres://u@db.example.com/d?sslmode=disable"), Some(SslMode::Disable));
    }

    #[test]
    fn bad_names_and_urls_are_refused_with_what_was_expected() {
        for schema in ["", "1a", "a-b", "A", "a;drop", &"a".repeat(49)] {
            assert!(Db::new("postgres://u@127.0.0.1/d", schema).is_err(), "{schema}");
        }
        for url in ["", "mysql://x", "postgres://u@127.0.0.1:notaport/d"] {
            let error = Db::new(url, "tasker").err().map(|e| e.to_string()).unwrap_or_default();
            assert!(error.contains("expected postgres://"), "{url}: {error}");
        }
    }
}
