//! Starts, stops, kills and restarts one private Postgres.

use std::{
    fmt, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{
    error::Error,
    home::Home,
    options::Options,
    process::{Postmaster, Shutdown, describe},
};

/// Time limit of a start: recovery after a crash may replay a lot of log before the server accepts
/// the first connection.
const READY_LIMIT: Duration = Duration::from_secs(120);
/// How long a start waits for a busy port, or for the memory of a server that was just killed.
const RETRY_LIMIT: Duration = Duration::from_secs(10);
/// How long the checkpoint of a clean stop may take before the server is stopped at once.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// A running private Postgres. Dropping it stops the server; so does the end of the process, on
/// Linux even by SIGKILL.
pub struct Cluster {
    postmaster: Postmaster,
    home: Home,
    port: u16,
    durable: bool,
    settings: Vec<(String, String)>,
}

impl Cluster {
    /// Starts a server, and returns once it accepts connections. Creates the data first if there is
    /// none.
    pub async fn start(options: Options) -> Result<Self, Error> {
        // On a thread for blocking work: initdb, copies and the wait for a predecessor.
        let (home, options) =
            tokio::task::spawn_blocking(move || Home::open(&options).map(|home| (home, options)))
                .await
                .unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))?;
        let Options {
            port,
            durable,
            settings,
            ..
        } = options;
        match launch(&home, port, durable, &settings).await {
            Ok((postmaster, port)) => {
                tracing::debug!(port, pid = postmaster.pid(), dir = %home.dir().display(), "Postgres is ready");
                Ok(Self {
                    postmaster,
                    home,
                    port,
                    durable,
                    settings,
                })
            }
            Err(error) => {
                home.clean_up();
                Err(error)
            }
        }
    }

    /// `postgres://postgres:<password>@127.0.0.1:<port>/postgres`. The user is the superuser.
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// Like [`Self::url`], for another database of the cluster.
    pub fn url_of(&self, database: &str) -> String {
        format!(
            "postgres://postgres:{}@127.0.0.1:{}/{database}",
            self.home.password, self.port
        )
    }

    /// The port on 127.0.0.1; the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The process id of the postmaster.
    pub fn pid(&self) -> u32 {
        self.postmaster.pid()
    }

    /// The version of the server, such as `15.8`.
    pub fn version(&self) -> &str {
        &self.home.binaries.version
    }

    /// The folder with the data, the password and the log.
    pub fn dir(&self) -> &Path {
        self.home.dir()
    }

    /// The path of the server's log.
    pub fn log(&self) -> PathBuf {
        self.home.log_path()
    }

    /// Resolves when the server has ended, by itself or on request.
    pub fn ended(&self) -> impl Future<Output = ExitStatus> + Send + 'static {
        let mut exit = self.postmaster.watch();
        async move {
            exit.wait_for(Option::is_some)
                .await
                .ok()
                .and_then(|status| *status)
                .unwrap_or_default()
        }
    }

    /// Ends all sessions, writes a checkpoint and stops. A temporary folder is removed.
    pub async fn stop(self) {
        self.stop_server().await;
    }

    /// Sends SIGKILL to the server and all its processes, as in a crash. Blocks for the moment
    /// until they are gone. For fault tests; [`Self::restart`] brings it back.
    pub fn kill(&self) {
        self.postmaster.kill_all();
    }

    /// Stops the server if it runs, and starts it again on the same port with the same data.
    pub async fn restart(&mut self) -> Result<(), Error> {
        self.stop_server().await;
        // On the same port, so that the URL stays valid for connected clients.
        (self.postmaster, _) = launch(&self.home, self.port, self.durable, &self.settings).await?;
        Ok(())
    }

    async fn stop_server(&self) {
        self.postmaster
            .ask(if self.home.temporary && !self.durable {
                Shutdown::Immediate
            } else {
                Shutdown::Fast
            });
        if self.postmaster.ended_within(STOP_LIMIT).await {
            return;
        }
        tracing::warn!(
            pid = self.pid(),
            "Postgres does not stop; it is stopped immediately"
        );
        // The data is intact all the same: the next start recovers from the log.
        self.postmaster.ask(Shutdown::Immediate);
        if !self.postmaster.ended_within(KILL_LIMIT).await {
            self.postmaster.kill_all();
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.postmaster.ask(if self.home.temporary {
            Shutdown::Immediate
        } else {
            Shutdown::Fast
        });
        if !self.postmaster.ended_within_blocking(KILL_LIMIT) {
            self.postmaster.kill_all();
        }
        self.home.clean_up();
    }
}

impl fmt::Debug for Cluster {
    /// Omits the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("port", &self.port)
            .field("dir", &self.dir())
            .finish_non_exhaustive()
    }
}

/// Starts the server, with retries: a port picked as free may be taken by then, and a server that
/// was just killed may still hold its memory.
async fn launch(
    home: &Home,
    wanted: u16,
    durable: bool,
    settings: &[(String, String)],
) -> Result<(Postmaster, u16), Error> {
    let until = Instant::now() + RETRY_LIMIT;
    loop {
        // A new choice at each try, since the last one may be the reason of the failure.
        let port = if wanted == 0 { free_port() } else { wanted };
        let error = match launch_once(home, port, durable, settings).await {
            Ok(postmaster) => return Ok((postmaster, port)),
            Err(error) => error,
        };
        let passes = matches!(&error, Error::Start { tail, .. }
            if tail.contains("could not bind") || tail.contains("pre-existing shared memory"));
        if !passes || Instant::now() >= until {
            return Err(error);
        }
        tracing::debug!(port, "Postgres has not started yet");
        sleep(Duration::from_millis(100)).await;
    }
}

async fn launch_once(
    home: &Home,
    port: u16,
    durable: bool,
    settings: &[(String, String)],
) -> Result<Postmaster, Error> {
    let (log, log_start) = home.open_log()?;
    let program = home.binaries.postgres();
    let mut command = home.command(&program);
    command.arg("-D").arg(home.data());
    // The last value of a setting applies, so the caller's settings come after.
    for (name, value) in ours(port, durable, home.temporary).iter().chain(settings) {
        command.arg("-c").arg(format!("{name}={value}"));
    }
    let clone = log
        .try_clone()
        .map_err(Error::io("open", home.log_path()))?;
    command
        .stdin(std::process::Stdio::null())
        .stdout(clone)
        .stderr(log);
    let when_we_die = if home.temporary {
        Shutdown::Immediate
    } else {
        Shutdown::Fast
    };
    let postmaster = Postmaster::spawn(command, when_we_die).map_err(Error::io("run", &program))?;

    let until = Instant::now() + READY_LIMIT;
    loop {
        // Before the look at the pid file, which a server that has ended may leave behind.
        if let Some(status) = postmaster.exited() {
            let (status, tail) = (describe(status), home.log_tail(log_start));
            return Err(Error::Start {
                status,
                log: home.log_path(),
                tail,
            });
        }
        if is_ready(&home.data(), postmaster.pid()) {
            return Ok(postmaster);
        }
        if Instant::now() >= until {
            postmaster.kill_all();
            let tail = home.log_tail(log_start);
            return Err(Error::NotReady {
                seconds: READY_LIMIT.as_secs(),
                log: home.log_path(),
                tail,
            });
        }
        sleep(Duration::from_millis(5)).await;
    }
}

fn ours(port: u16, durable: bool, temporary: bool) -> Vec<(String, String)> {
    let mut settings = vec![
        ("listen_addresses", "127.0.0.1".to_owned()),
        ("port", port.to_string()),
        // No socket file: its path would have to be short, and its folder accessible to two users.
        ("unix_socket_directories", String::new()),
        ("max_connections", "200".to_owned()),
        ("cluster_name", "tasker".to_owned()),
        ("log_line_prefix", "%m [%p] ".to_owned()),
        ("log_timezone", "UTC".to_owned()),
    ];
    if !durable {
        // Not synchronous_commit: a commit still survives the death of the server, on which fault
        // tests rely.
        settings.extend(["fsync", "full_page_writes"].map(|name| (name, "off".to_owned())));
    }
    if temporary {
        // In the data folder, which is removed with all its files even if the server is killed.
        settings.push(("dynamic_shared_memory_type", "mmap".to_owned()));
    }
    settings
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// Whether the server accepts connections: it states that in the eighth line of `postmaster.pid`.
fn is_ready(data: &Path, pid: u32) -> bool {
    let Ok(file) = fs::read_to_string(data.join("postmaster.pid")) else {
        return false;
    };
    let lines: Vec<&str> = file.lines().map(str::trim).collect();
    lines.first() == Some(&pid.to_string().as_str()) && lines.get(7) == Some(&"ready")
}

/// A port that is free now and lies below the range of ports for outgoing connections. Inside that
/// range, a client that keeps dialling while the server is down can be assigned the very port it
/// dials, connect to itself, and block the return of the server.
fn free_port() -> u16 {
    const RANGE: std::ops::Range<u16> = 20_000..32_000;
    let random =
        || u16::from_le_bytes([Uuid::new_v4().as_bytes()[0], Uuid::new_v4().as_bytes()[1]]);
    let candidates =
        std::iter::repeat_with(|| RANGE.start + random() % RANGE.len() as u16).take(100);
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    // If no port is free, the server's own message about the port explains the failure.
    candidates.into_iter().find(is_free).unwrap_or(RANGE.start)
}
