//! Establishes a connection: tries the hosts of the URL in turn, makes the settings on which every
//! statement relies, and checks that they hold.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio_postgres::{
    Client, Config, Connection, SimpleQueryMessage, SimpleQueryRow, Socket,
    config::{ChannelBinding, SslMode as DriverSslMode, SslNegotiation},
    tls::MakeTlsConnect,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{
    StoreError,
    tls::{self, Encryption},
    url::{self, DatabaseUrl, Endpoint, Host, SslMode},
};

/// The driver of a connection: it transports messages while it is polled.
pub type Driver = Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// Limit on establishing a connection, unless the URL has `connect_timeout`. The driver's own limit
/// covers only the opening of the socket, not the protocol after it.
const CONNECT_LIMIT: Duration = Duration::from_secs(4);
/// Limit on opening the socket to one host, so that the next host is tried in time.
const SOCKET_LIMIT: Duration = Duration::from_secs(3);
/// The name of our connections in `pg_stat_activity`, unless the URL has `application_name`.
const APPLICATION: &str = "tasker";
/// Statement timeout of all connections, ms.
pub(super) const STATEMENT_TIMEOUT_MS: u32 = 30_000;

/// Settings of all connections, whatever the database, the role or a pooler sets. They are made by
/// SET after connecting: a pooler may drop parameters of the connection request.
///
/// - The meaning of our statements must not depend on the role that runs them: strings, dates and
///   binary text as Postgres prints them by default, and READ COMMITTED, for which all locks are
///   designed.
/// - Statistics of tables that fill and empty by the second mislead the planner: it then reads or
///   hashes a whole table to find a handful of rows. Every statement here is a lookup by key or a
///   bounded walk along an index, so forbidding other plans costs nothing, and neither does making
///   the plan once: by default Postgres may plan the read of a task anew each time, which takes ten
///   times as long as the read.
const SETTINGS: &[(&str, &str)] = &[
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO, MDY"),
    ("IntervalStyle", "postgres"),
    ("bytea_output", "hex"),
    ("standard_conforming_strings", "on"),
    ("transform_null_equals", "off"),
    ("extra_float_digits", "1"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_deferrable", "off"),
    ("idle_session_timeout", "0"),
    ("lock_timeout", "10s"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
    ("enable_seqscan", "off"),
    ("enable_memoize", "off"),
    ("enable_indexscan", "on"),
    ("enable_nestloop", "on"),
    ("jit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
];

/// Further settings of the engine's connections. Between the two halves of a transaction the engine
/// only decides: a server that stops there, with rows locked, must not block the others for longer
/// than that. A transaction that waits for a lock blocks all transactions that wait for its own
/// locks, so it gives up early and is retried.
pub(super) const DEDICATED_SETTINGS: &[(&str, &str)] = &[
    ("enable_bitmapscan", "off"),
    ("idle_in_transaction_session_timeout", "5s"),
    ("lock_timeout", "2s"),
];

/// Further settings of the connection that migrates: a large table is rewritten or indexed for
/// hours, by any plan. A lock that is requested blocks all later statements on its table, so the
/// request ends early and is repeated.
pub(super) const MIGRATION_SETTINGS: &[(&str, &str)] = &[
    ("statement_timeout", "0"),
    ("lock_timeout", "2s"),
    ("enable_hashjoin", "on"),
    ("enable_mergejoin", "on"),
    ("enable_seqscan", "on"),
];

/// Makes connections to one schema of one database.
#[derive(Clone)]
pub(super) struct Connector {
    url: Arc<DatabaseUrl>,
    encryption: Encryption,
    schema: Arc<str>,
    /// The host of the last successful connection; it is tried first.
    last: Arc<AtomicUsize>,
}

/// The process id of the database process that serves a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backend(pub(super) i32);

impl Connector {
    pub(super) fn new(url: DatabaseUrl, schema: &str) -> Result<Self, StoreError> {
        let encryption = Encryption::of(&url)?;
        Ok(Self {
            url: Arc::new(url),
            encryption,
            schema: schema.into(),
            last: Arc::default(),
        })
    }

    /// Connects to the first host that accepts the connection and takes writes. If none does, it
    /// returns the most specific error: of a list of hosts some are always away.
    pub(super) async fn connect(
        &self,
        more: &[(&str, &str)],
    ) -> Result<(Client, Driver, Endpoint), StoreError> {
        let hosts = &self.url.hosts;
        // Without shuffling, the last host that accepted writes comes first: hosts that are away
        // would cost a time-out for each new connection.
        let first = if self.url.shuffled {
            random()
        } else {
            self.last.load(Ordering::Relaxed)
        };
        let mut refusal: Option<StoreError> = None;
        for place in (0..hosts.len()).map(|i| first.wrapping_add(i) % hosts.len()) {
            match self.connect_to(&hosts[place], more).await {
                Ok((client, driver)) => {
                    // Relaxed: a stale value only costs one more try.
                    self.last.store(place, Ordering::Relaxed);
                    return Ok((client, driver, hosts[place].clone()));
                }
                Err(error)
                    if refusal
                        .as_ref()
                        .is_none_or(|known| known.weight() < error.weight()) =>
                {
                    refusal = Some(error);
                }
                // Less specific than the error that is kept: a host that is merely away explains
                // nothing.
                Err(_) => {}
            }
        }
        Err(refusal.unwrap_or_else(StoreError::silent))
    }

    /// The TLS configuration for one host, also for a cancel request to it.
    pub(super) fn tls(&self, endpoint: &Endpoint) -> MakeRustlsConnect {
        self.encryption.connector(self.url.mode(endpoint))
    }

    async fn connect_to(
        &self,
        endpoint: &Endpoint,
        more: &[(&str, &str)],
    ) -> Result<(Client, Driver), StoreError> {
        let limit = self.url.connect_timeout.unwrap_or(CONNECT_LIMIT);
        // Boxed: the state of a handshake is large, and would be part of each future that may have
        // to connect.
        let connecting = Box::pin(async {
            let connected = config(&self.url, endpoint)
                .connect(self.tls(endpoint))
                .await;
            let (client, mut driver) = connected.map_err(|error| {
                refused(
                    error,
                    endpoint,
                    self.url.mode(endpoint),
                    self.url.tls.identity.is_some(),
                )
            })?;
            let settle = settle(&client, &self.schema, more);
            // The answers arrive only while the driver is polled.
            tokio::select! {
                settled = settle => settled?,
                ended = &mut driver => {
                    ended?;
                    return Err(StoreError::Connection("the database ended a new connection".into()));
                }
            };
            Ok((client, driver))
        });
        // Covers the handshakes and the settings too: a host may accept the socket and never
        // answer.
        tokio::time::timeout(limit, connecting)
            .await
            .map_err(|_| StoreError::silent())?
    }
}

/// Adds advice to an error about certificates or encryption.
fn refused(
    error: tokio_postgres::Error,
    endpoint: &Endpoint,
    mode: SslMode,
    identified: bool,
) -> StoreError {
    if let Some(advice) = tls::advice(&error, endpoint) {
        return StoreError::Unfit(match mode {
            SslMode::Prefer => {
                format!(
                    "{advice} (sslmode=prefer falls back to plain text only where no TLS is offered)"
                )
            }
            _ => advice,
        });
    }
    // Postgres reports both cases below with SQLSTATE 28000, like other refusals, so only the text
    // distinguishes them. A translated message gets no advice.
    let said = error
        .as_db_error()
        .map(tokio_postgres::error::DbError::message)
        .unwrap_or_default();
    if said.contains("valid client certificate") && !identified {
        return StoreError::Unfit(format!(
            "{endpoint} asks for a certificate of the client: name it with sslcert=/path/to/client.pem and \
             sslkey=/path/to/client.key"
        ));
    }
    if said.contains("no pg_hba.conf entry")
        && said.contains("no encryption")
        && mode == SslMode::Disable
    {
        return StoreError::Unfit(format!(
            "{endpoint} refuses connections without encryption ({said}): set sslmode=verify-full in the URL, and sslrootcert=/path/to/ca.pem to the trusted authority"
        ));
    }
    error.into()
}

/// The driver's configuration for one host.
fn config(url: &DatabaseUrl, endpoint: &Endpoint) -> Config {
    let mut config = Config::new();
    match &endpoint.host {
        Host::Tcp(name) => config.host(name),
        Host::Unix(folder) => config.host_path(folder),
    };
    if let Some(address) = endpoint.address {
        config.hostaddr(address);
    }
    if let Some(user) = &url.user {
        config.user(user);
    }
    if let Some(password) = &url.password {
        config.password(password.reveal());
    }
    if let Some(database) = &url.database {
        config.dbname(database);
    }
    if let Some(options) = &url.options {
        config.options(options);
    }
    // The driver only decides whether TLS is used; the verifiers of `tls` implement the stricter
    // modes. The keep-alives (10 s, then three probes 5 s apart) find a host that vanished without
    // a reset, for which the default of Linux would wait two hours.
    config
        .port(endpoint.port)
        .application_name(url.application_name.as_deref().unwrap_or(APPLICATION))
        .ssl_mode(match url.mode(endpoint) {
            SslMode::Disable => DriverSslMode::Disable,
            SslMode::Prefer => DriverSslMode::Prefer,
            SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => DriverSslMode::Require,
        })
        .ssl_negotiation(if url.tls.direct {
            SslNegotiation::Direct
        } else {
            SslNegotiation::Postgres
        })
        .channel_binding(match url.channel_binding {
            url::ChannelBinding::Disable => ChannelBinding::Disable,
            url::ChannelBinding::Prefer => ChannelBinding::Prefer,
            url::ChannelBinding::Require => ChannelBinding::Require,
        })
        .connect_timeout(
            url.connect_timeout
                .map_or(SOCKET_LIMIT, |limit| limit.min(SOCKET_LIMIT)),
        )
        .keepalives(!url.keepalives.off)
        .keepalives_idle(url.keepalives.idle.unwrap_or(Duration::from_secs(10)))
        .keepalives_interval(url.keepalives.interval.unwrap_or(Duration::from_secs(5)))
        .keepalives_retries(url.keepalives.retries.unwrap_or(3))
        .tcp_user_timeout(url.tcp_user_timeout.unwrap_or(Duration::from_secs(20)));
    config
}

/// Makes the settings, and checks in another transaction that they hold. Both are sent at once.
async fn settle(client: &Client, schema: &str, more: &[(&str, &str)]) -> Result<(), StoreError> {
    let timeout = STATEMENT_TIMEOUT_MS.to_string();
    // `more` comes last, since a later SET of the same name overrides an earlier one.
    let settings: Vec<(&str, &str)> = [("search_path", schema), ("statement_timeout", &timeout)]
        .iter()
        .chain(SETTINGS)
        .chain(more)
        .copied()
        .collect();
    let set: Vec<String> = settings
        .iter()
        .map(|(name, value)| format!("SET {name} TO {}", literal(name, value)))
        .collect();
    let set = set.join(";");
    // Both by the simple protocol: a prepared statement would cost a round trip of its own.
    let check = "SELECT current_setting('search_path'), current_schema(), current_setting('transaction_read_only'),
                       current_setting('server_encoding'), current_database(), pg_is_in_recovery(),
                       current_setting('standard_conforming_strings')";
    let (set, seen) = tokio::join!(client.batch_execute(&set), client.simple_query(check));
    set?;
    let seen = seen?;
    let row = first_row(&seen)
        .ok_or_else(|| StoreError::Corrupt("a new connection reports no settings".into()))?;
    admit(row, schema)
}

/// `search_path` is a list of names; every other value here is text.
fn literal(name: &str, value: &str) -> String {
    if name == "search_path" {
        value.to_owned()
    } else {
        format!("'{value}'")
    }
}

/// Whether the database can hold a cell.
fn admit(row: &SimpleQueryRow, schema: &str) -> Result<(), StoreError> {
    let of = |i: usize| row.get(i).unwrap_or_default();
    let (path, current, encoding, database) = (of(0), row.get(1), of(3), of(4));
    // `current_schema()` is NULL as long as the schema does not exist, which `migrate` may create.
    if path != schema || current.is_some_and(|current| current != schema) || of(6) != "on" {
        return Err(StoreError::Unfit(transaction_pooler(
            "a setting made by SET does not last until the next statement",
        )));
    }
    if encoding != "UTF8" {
        return Err(StoreError::Unfit(format!(
            "database `{database}` has the encoding {encoding}, and UTF8 is needed: create another one with \
             `CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0`"
        )));
    }
    match (of(2), of(5)) {
        ("off", _) => Ok(()),
        (_, "t") => Err(StoreError::ReadOnly(format!(
            "database `{database}` is on a read-only standby"
        ))),
        _ => Err(StoreError::ReadOnly(format!(
            "database `{database}` is read-only (default_transaction_read_only is on)"
        ))),
    }
}

/// The error for a pooler that shares connections between transactions.
pub(super) fn transaction_pooler(seen: &str) -> String {
    format!(
        "the database is behind a pooler that assigns connections by transaction or statement ({seen}): tasker needs a \
         connection of its own for LISTEN, locks and prepared statements, so set pool_mode = session, or connect to Postgres \
         itself"
    )
}

/// The process of the database that serves the connection now.
pub(super) async fn backend(client: &Client) -> Result<Backend, StoreError> {
    let seen = client.simple_query("SELECT pg_backend_pid()").await?;
    let pid = first_row(&seen)
        .and_then(|row| row.get(0))
        .and_then(|pid| pid.parse().ok());
    pid.map(Backend)
        .ok_or_else(|| StoreError::Corrupt("pg_backend_pid() is not a number".into()))
}

fn first_row(messages: &[SimpleQueryMessage]) -> Option<&SimpleQueryRow> {
    messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    })
}

/// Serves a connection until it ends.
pub(super) fn serve(driver: Driver) -> tokio::task::JoinHandle<()> {
    tokio::spawn(driven(driver))
}

async fn driven(driver: impl Future<Output = Result<(), tokio_postgres::Error>>) {
    // Each query of the connection fails with the same cause, and its caller reports that.
    if let Err(error) = driver.await {
        tracing::debug!(%error, "a database connection ended");
    }
}

fn random() -> usize {
    let (_, bits) = uuid::Uuid::new_v4().as_u64_pair();
    usize::from(u16::try_from(bits & 0xffff).unwrap_or_default())
}
