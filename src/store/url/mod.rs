//! The database URL, parsed once into a struct. No other code searches its text, so a password may
//! contain anything: `sslmode`, `@`, or a whole second URL.

#[cfg(test)]
mod tests;
mod text;

use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use super::StoreError;

/// The port of a host without one.
const DEFAULT_PORT: u16 = 5432;
/// Bound on `connect_timeout` and the other times of a URL, seconds.
const MAX_SECONDS: u64 = 3_600;
/// Bound on the hosts of one URL.
const MAX_HOSTS: usize = 16;
/// The form of a URL, for messages.
const EXPECTED: &str = "expected postgres://user:password@host:port/database?name=value";

/// Every parameter of a database URL, or of a `key=value` string. A driver is set up from these
/// fields alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseUrl {
    /// In the order in which they are tried; at least one.
    pub hosts: Vec<Endpoint>,
    pub user: Option<String>,
    pub password: Option<Secret>,
    pub database: Option<String>,
    pub tls: Tls,
    /// Whether the hosts are tried in random order.
    pub shuffled: bool,
    pub channel_binding: ChannelBinding,
    /// Settings for the session, as `-c name=value`.
    pub options: Option<String>,
    pub application_name: Option<String>,
    pub connect_timeout: Option<Duration>,
    pub keepalives: Keepalives,
    pub tcp_user_timeout: Option<Duration>,
}

/// One address of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub host: Host,
    /// The address of a named host, if the URL contains it (`hostaddr`): no name is resolved then.
    pub address: Option<IpAddr>,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A name or an address; a certificate is compared with it.
    Tcp(String),
    /// The directory of a socket.
    Unix(PathBuf),
}

/// The encryption parameters of the URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// `None` where the URL has no `sslmode`; see [`DatabaseUrl::mode`].
    pub mode: Option<SslMode>,
    pub root_cert: Option<RootCert>,
    /// The client's certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Whether TLS begins without negotiation with the server (Postgres 17).
    pub direct: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    Disable,
    /// Encrypted if the server supports it, else in plain text; the certificate is not verified.
    Prefer,
    /// Like [`Self::VerifyFull`]: without verification any machine could answer the connection,
    /// which does not meet the requirement.
    Require,
    /// A trusted authority signed the certificate, for whatever name.
    VerifyCa,
    VerifyFull,
}

/// The trusted authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootCert {
    /// Those of the machine.
    System,
    /// Those in a file.
    File(PathBuf),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChannelBinding {
    Disable,
    #[default]
    Prefer,
    Require,
}

/// How a silent TCP connection is probed; `None` selects the default of `connect`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalives {
    pub off: bool,
    pub idle: Option<Duration>,
    pub interval: Option<Duration>,
    pub retries: Option<u32>,
}

/// A password. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The password itself, for the driver.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl DatabaseUrl {
    /// The encryption of a connection to this host. Plain text is for this machine alone, unless
    /// the URL requests it; a URL that names a certificate requires its use.
    pub fn mode(&self, endpoint: &Endpoint) -> SslMode {
        let certificates = self.tls.root_cert.is_some() || self.tls.identity.is_some();
        match (&endpoint.host, self.tls.mode) {
            // Postgres does not encrypt connections over a Unix socket.
            (Host::Unix(_), _) => SslMode::Disable,
            (_, Some(mode)) => mode,
            (_, None) if endpoint.is_local() && !certificates => SslMode::Disable,
            (_, None) => SslMode::VerifyFull,
        }
    }
}

impl Endpoint {
    fn is_local(&self) -> bool {
        let loops = |ip: IpAddr| ip.is_loopback();
        match (&self.host, self.address) {
            (Host::Unix(_), _) => true,
            (Host::Tcp(_), Some(address)) => loops(address),
            // The name is not resolved: the answer of a resolver must not turn off encryption.
            (Host::Tcp(name), None) => name == "localhost" || name.parse().is_ok_and(loops),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp(name) if name.contains(':') => write!(f, "[{name}]:{}", self.port),
            Host::Tcp(name) => write!(f, "{name}:{}", self.port),
            Host::Unix(folder) => write!(f, "{}:{}", folder.display(), self.port),
        }
    }
}

/// Without the password.
impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("postgres://")?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        let hosts: Vec<String> = self.hosts.iter().map(ToString::to_string).collect();
        write!(
            f,
            "{}/{}",
            hosts.join(","),
            self.database.as_deref().unwrap_or_default()
        )
    }
}

impl FromStr for DatabaseUrl {
    type Err = StoreError;

    /// Parses a URL (`postgres://…`) or a `key=value` string, as libpq does.
    fn from_str(text: &str) -> Result<Self, StoreError> {
        text::pairs(text)
            .and_then(|pairs| Self::from_pairs(Pairs(pairs)))
            .map_err(|why| StoreError::Config(format!("database URL: {why}; {EXPECTED}")))
    }
}

/// The parameters of the text, by their names in libpq; each is taken once.
struct Pairs(BTreeMap<String, String>);

impl Pairs {
    /// Empty is the same as absent, as with libpq.
    fn text(&mut self, name: &str) -> Option<String> {
        // Taken out, so that the names left at the end of `from_pairs` are the unknown ones.
        self.0.remove(name).filter(|value| !value.is_empty())
    }

    fn file(&mut self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    /// One of several words.
    fn choice<T: Copy>(&mut self, name: &str, words: &[(&str, T)]) -> Result<Option<T>, String> {
        let Some(value) = self.text(name) else {
            return Ok(None);
        };
        match words.iter().find(|(word, _)| *word == value) {
            Some((_, meaning)) => Ok(Some(*meaning)),
            None => {
                let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                Err(format!(
                    "{name} `{value}` is unknown, one of {} is expected",
                    known.join(", ")
                ))
            }
        }
    }

    fn number(&mut self, name: &str, max: u64) -> Result<Option<u64>, String> {
        let Some(value) = self.text(name) else {
            return Ok(None);
        };
        match value.parse() {
            Ok(number) if number <= max => Ok(Some(number)),
            _ => Err(format!("{name} `{value}` is not a number from 0 to {max}")),
        }
    }

    /// 0 selects the default, as with libpq.
    fn seconds(&mut self, name: &str) -> Result<Option<Duration>, String> {
        Ok(self
            .number(name, MAX_SECONDS)?
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs))
    }
}

impl DatabaseUrl {
    fn from_pairs(mut pairs: Pairs) -> Result<Self, String> {
        let mut url = Self {
            hosts: endpoints(&mut pairs)?,
            user: pairs.text("user"),
            password: pairs.text("password").map(Secret),
            database: pairs.text("dbname"),
            tls: tls(&mut pairs)?,
            shuffled: pairs
                .choice(
                    "load_balance_hosts",
                    &[("disable", false), ("random", true)],
                )?
                .unwrap_or(false),
            channel_binding: pairs
                .choice(
                    "channel_binding",
                    &[
                        ("disable", ChannelBinding::Disable),
                        ("prefer", ChannelBinding::Prefer),
                        ("require", ChannelBinding::Require),
                    ],
                )?
                .unwrap_or_default(),
            options: pairs.text("options"),
            application_name: pairs.text("application_name"),
            connect_timeout: pairs.seconds("connect_timeout")?,
            keepalives: Keepalives::default(),
            tcp_user_timeout: None,
        };
        url.keepalives = Keepalives {
            off: pairs
                .choice("keepalives", &[("0", true), ("1", false)])?
                .unwrap_or(false),
            idle: pairs.seconds("keepalives_idle")?,
            interval: pairs.seconds("keepalives_interval")?,
            retries: keepalive_retries(&mut pairs)?,
        };
        let milliseconds = pairs.number("tcp_user_timeout", MAX_SECONDS * 1_000)?;
        url.tcp_user_timeout = milliseconds.filter(|ms| *ms > 0).map(Duration::from_millis);
        // A server writes, so a host that takes no writes is passed over whatever this parameter
        // is.
        pairs
            .choice(
                "target_session_attrs",
                &[("any", ()), ("read-write", ()), ("primary", ())],
            )
            .map_err(|why| format!("{why}, as tasker has to write"))?;
        // Of these two parameters only the values that mean what this client does anyway are
        // accepted.
        pairs.choice("gssencmode", &[("disable", ()), ("prefer", ())])?;
        pairs.choice(
            "client_encoding",
            &[("UTF8", ()), ("utf8", ()), ("UTF-8", ()), ("auto", ())],
        )?;
        match pairs.0.keys().next() {
            Some(unknown) => Err(format!("the parameter `{unknown}` is unknown")),
            None if url.channel_binding == ChannelBinding::Require
                && url.tls.mode == Some(SslMode::Disable) =>
            {
                Err("channel_binding=require needs TLS, and sslmode=disable turns it off".into())
            }
            None => Ok(url),
        }
    }
}

/// The number of probes without an answer that end a connection, by libpq's name or the driver's.
fn keepalive_retries(pairs: &mut Pairs) -> Result<Option<u32>, String> {
    let count = pairs.number("keepalives_count", 100)?;
    let retries = pairs.number("keepalives_retries", 100)?;
    if count.is_some() && retries.is_some() {
        return Err("keepalives_count and keepalives_retries are two names of one setting".into());
    }
    Ok(count.or(retries).and_then(|n| u32::try_from(n).ok()))
}

/// The three lists of the hosts, combined by position.
fn endpoints(pairs: &mut Pairs) -> Result<Vec<Endpoint>, String> {
    let mut list = |name| {
        pairs
            .text(name)
            .map(|list| list.split(',').map(str::to_owned).collect::<Vec<_>>())
    };
    let (hosts, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    // As with libpq, `hostaddr` alone is enough.
    let count = hosts.as_ref().or(addresses.as_ref()).map_or(0, Vec::len);
    if count == 0 {
        return Err("there is no host".into());
    }
    if count > MAX_HOSTS {
        return Err(format!(
            "there are {count} hosts, at most {MAX_HOSTS} are expected"
        ));
    }
    if addresses.as_ref().is_some_and(|list| list.len() != count) {
        return Err("host and hostaddr have different numbers of entries".into());
    }
    let ports = ports.unwrap_or_default();
    // A single port is for all hosts.
    if ports.len() > 1 && ports.len() != count {
        return Err(format!("there are {count} hosts and {} ports", ports.len()));
    }
    let nth = |list: &Option<Vec<String>>, i: usize| {
        list.as_ref()
            .and_then(|list| list.get(i))
            .filter(|entry| !entry.is_empty())
            .cloned()
    };
    let endpoint = |i: usize| {
        let address = match nth(&addresses, i) {
            Some(text) => Some(
                text.parse::<IpAddr>()
                    .map_err(|_| format!("hostaddr `{text}` is not an IP address"))?,
            ),
            None => None,
        };
        // Without a name, the certificate is compared with the address.
        let name = nth(&hosts, i).or_else(|| address.map(|ip| ip.to_string()));
        let host = match name.ok_or("a host has no name")? {
            folder if folder.starts_with('/') => Host::Unix(folder.into()),
            name => Host::Tcp(name),
        };
        let port = match ports.get(i).or(ports.first()).map_or("", String::as_str) {
            "" => DEFAULT_PORT,
            // The text may be part of a password that has not been encoded, so the message does not
            // repeat it.
            text => match text.parse() {
                Ok(port) if port > 0 => port,
                _ => return Err("a port is not a number from 1 to 65535 (`/ ? # @ %` in a password are written %2F %3F %23 %40 %25)".to_owned()),
            },
        };
        Ok(Endpoint {
            host,
            address,
            port,
        })
    };
    (0..count).map(endpoint).collect()
}

fn tls(pairs: &mut Pairs) -> Result<Tls, String> {
    let modes = [
        ("disable", SslMode::Disable),
        ("prefer", SslMode::Prefer),
        ("require", SslMode::Require),
        ("verify-ca", SslMode::VerifyCa),
        ("verify-full", SslMode::VerifyFull),
    ];
    let mode = pairs.choice("sslmode", &modes)?;
    let root_cert = pairs.text("sslrootcert").map(|place| match place.as_str() {
        "system" => RootCert::System,
        file => RootCert::File(file.into()),
    });
    let identity = match (pairs.file("sslcert"), pairs.file("sslkey")) {
        (Some(cert), Some(key)) => Some((cert, key)),
        (None, None) => None,
        (Some(_), None) => return Err("sslcert is given without sslkey".into()),
        (None, Some(_)) => return Err("sslkey is given without sslcert".into()),
    };
    let direct = pairs
        .choice("sslnegotiation", &[("postgres", false), ("direct", true)])?
        .unwrap_or(false);
    // Without the negotiation the server cannot answer that it has no TLS, so no fallback is
    // possible.
    if direct && matches!(mode, Some(SslMode::Disable | SslMode::Prefer)) {
        return Err("sslnegotiation=direct needs sslmode=require or stricter".into());
    }
    Ok(Tls {
        mode,
        root_cert,
        identity,
        direct,
    })
}
