//! One Postgres, several servers, and worker processes, each reached through links that can break.

use std::{
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tasker_devdb::{Cluster, Options};
use tokio::sync::{Mutex, MutexGuard};
use tokio_postgres::{Client, NoTls};

use crate::{
    checker::violation::Violation,
    chronicle::Chronicle,
    clock::Clock,
    link::{Link, Mode},
    process::Process,
    seed::Rng,
    support::{self, SCHEMA, TestDb},
    worker::Orders,
};

/// The lease of a worker. Short, so that many leases run out.
pub const LEASE_SECONDS: &str = "3";
const DRAIN_SECONDS: &str = "3";
/// Time limit for a process to end after its signal.
pub const END_LIMIT: Duration = Duration::from_secs(20);
/// Time limit for a server to listen; it waits for its database first.
const START_LIMIT: Duration = Duration::from_secs(60);

pub struct World {
    pub dir: PathBuf,
    pub chronicle: Chronicle,
    pub cluster: Arc<Mutex<Cluster>>,
    /// The URL of the database, without any link.
    pub database: String,
    pub servers: Vec<Server>,
    pub workers: Vec<WorkerHost>,
}

/// The number of processes and workers.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub servers: usize,
    pub worker_processes: usize,
    pub workers_per_process: usize,
}

impl World {
    /// Starts everything, in a folder of its own; `options` are those of its Postgres.
    pub async fn start(seed: u64, size: Size, dir: PathBuf, options: Options) -> Self {
        let cluster = support::start(options).await;
        let database = TestDb::on(&cluster).await.url().to_owned();
        let mut rng = Rng::of(seed, &format!("ports {}", std::process::id()));
        let mut servers = Vec::new();
        for index in 0..size.servers {
            servers.push(
                Server::start(index, cluster.port(), &database, free_port(&mut rng), &dir).await,
            );
        }
        for server in &servers {
            server.serves().await;
        }
        let addresses: Vec<String> = servers
            .iter()
            .map(|s| format!("http://{}", s.for_workers.address))
            .collect();
        let workers = (0..size.worker_processes).map(|index| {
            WorkerHost::start(Orders {
                name: String::new(),
                build: String::new(),
                index,
                servers: addresses.clone(),
                workers: size.workers_per_process,
                seed: seed.to_string(),
                ledger: dir.join("ledger.jsonl"),
            })
        });
        let workers = workers.collect();
        let chronicle = Chronicle::new(&dir);
        Self {
            dir,
            chronicle,
            cluster: Arc::new(Mutex::new(cluster)),
            database,
            servers,
            workers,
        }
    }

    /// A session without any link; an error while Postgres is away.
    pub async fn session(&self) -> Result<Client, String> {
        session(&self.database).await
    }

    /// Watches for processes that ended unasked, and starts them again. Never returns.
    pub async fn watch(&self) {
        loop {
            tokio::time::sleep(Duration::from_millis(250)).await;
            for server in &self.servers {
                // A fault that holds the lock is just killing the process.
                let Ok(mut process) = server.process.try_lock() else {
                    continue;
                };
                if let Some(status) = process.exited() {
                    let how = format!("{status}; {}", tail(&process.log));
                    let who = format!("server {}", server.index);
                    self.chronicle
                        .violation(Violation::ProcessEnded { who, how });
                    *process = server.spawn();
                }
            }
            for host in &self.workers {
                let Ok(mut process) = host.process.try_lock() else {
                    continue;
                };
                let Some(status) = process.exited() else {
                    continue;
                };
                let who = format!("worker process {}", host.orders.index);
                match status.signal() {
                    Some(signal) if signal == Signal::KILL.as_raw() => {
                        self.chronicle.fault("worker crash", &who);
                    }
                    _ => {
                        let how = format!("{status}; {}", tail(&process.log));
                        self.chronicle
                            .violation(Violation::ProcessEnded { who, how });
                    }
                }
                *process = host.spawn();
            }
        }
    }

    /// Heals every link and every clock. Faults with a duration must be over.
    pub fn heal(&self) {
        for server in &self.servers {
            for link in server.links() {
                link.set(Mode::Pass);
                link.lose_commit(0);
            }
            server.clock.iter().for_each(|clock| clock.jump(0));
        }
        self.workers
            .iter()
            .flat_map(|host| &host.clock)
            .for_each(|clock| clock.jump(0));
    }

    /// Ends the workers, then the servers, each in good order.
    pub async fn stop(&self) {
        let mut ending = Vec::new();
        for host in &self.workers {
            let mut process = host.process.lock().await;
            process.hang_up();
            ending.push((format!("worker process {}", host.orders.index), process));
        }
        self.wait_for_ends(ending).await;
        let mut ending = Vec::new();
        for server in &self.servers {
            let process = server.process.lock().await;
            process.signal(Signal::TERM);
            ending.push((format!("server {}", server.index), process));
        }
        self.wait_for_ends(ending).await;
    }

    async fn wait_for_ends(&self, ending: Vec<(String, MutexGuard<'_, Process>)>) {
        for (who, mut process) in ending {
            self.ends(who, &mut process).await;
        }
    }

    /// Waits for a process that was asked to end, and records a violation if it stays or fails.
    pub async fn ends(&self, who: String, process: &mut Process) {
        let told = self.chronicle.elapsed();
        let ended = process.ended_within(END_LIMIT).await;
        self.chronicle.note(&format!(
            "{who} ended {:?} after it was told to",
            self.chronicle.elapsed() - told
        ));
        match ended {
            Some(status) if status.success() => {}
            // The process was still starting and had no work to finish.
            Some(status) if status.signal() == Some(Signal::TERM.as_raw()) => {}
            Some(status) => {
                let how = format!("{status} when told to; {}", tail(&process.log));
                self.chronicle
                    .violation(Violation::ProcessEnded { who, how });
            }
            None => {
                self.chronicle.violation(Violation::ProcessStayed {
                    who,
                    seconds: END_LIMIT.as_secs(),
                });
                process.kill();
            }
        }
    }
}

/// A `tasker server` and the three links to and from it.
pub struct Server {
    pub index: usize,
    pub to_database: Link,
    pub for_workers: Link,
    pub for_clients: Link,
    pub process: Mutex<Process>,
    pub clock: Option<Clock>,
    launch: Launch,
}

struct Launch {
    port: u16,
    database: String,
    log: PathBuf,
    clock: Option<Clock>,
}

impl Server {
    async fn start(index: usize, postgres: u16, database: &str, port: u16, dir: &Path) -> Self {
        let to_database = Link::to(postgres).await;
        let clock = || Clock::new(dir.join(format!("clock-server-{index}")));
        let launch = Launch {
            port,
            database: database.replace(
                &format!(":{postgres}/"),
                &format!(":{}/", to_database.address.port()),
            ),
            log: dir.join(format!("server-{index}.log")),
            clock: clock(),
        };
        Self {
            index,
            to_database,
            for_workers: Link::to(port).await,
            for_clients: Link::to(port).await,
            process: Mutex::new(launch.spawn()),
            clock: clock(),
            launch,
        }
    }

    /// Starts the process, on the same port and with the same log.
    pub fn spawn(&self) -> Process {
        self.launch.spawn()
    }

    /// Waits until the server answers.
    pub async fn listens(&self) {
        let until = Instant::now() + START_LIMIT;
        let url = format!("http://127.0.0.1:{}", self.launch.port);
        while tasker_worker::client::Client::connect(&url).await.is_err() {
            assert!(
                Instant::now() < until,
                "server {} does not listen",
                self.index
            );
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    /// Waits until the server has read its templates and answers calls.
    async fn serves(&self) {
        self.listens().await;
        let until = Instant::now() + START_LIMIT;
        let mut client = tasker_worker::client::Client::connect(&self.url())
            .await
            .unwrap();
        while let Err(status) = client
            .templates
            .list_templates(tasker::proto::ListTemplatesRequest::default())
            .await
        {
            assert!(Instant::now() < until, "server {}: {status}", self.index);
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }

    pub fn links(&self) -> [&Link; 3] {
        [&self.to_database, &self.for_workers, &self.for_clients]
    }

    /// Without the links.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.launch.port)
    }
}

impl Launch {
    fn spawn(&self) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tasker"));
        command
            .args([
                "server",
                "--listen",
                &format!("127.0.0.1:{}", self.port),
                "--schema",
                SCHEMA,
                "--log",
                "warn",
            ])
            .args([
                "--lease-seconds",
                LEASE_SECONDS,
                "--drain-seconds",
                DRAIN_SECONDS,
            ])
            .env("TASKER_DATABASE_URL", &self.database)
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        self.clock.iter().for_each(|clock| clock.rule(&mut command));
        Process::start(command, &self.log)
    }
}

/// A process of workers, restarted in the same place.
pub struct WorkerHost {
    pub process: Mutex<Process>,
    pub clock: Option<Clock>,
    pub orders: Orders,
    generation: AtomicUsize,
    log: PathBuf,
}

impl WorkerHost {
    fn start(orders: Orders) -> Self {
        let dir = orders.ledger.parent().unwrap();
        let log = dir.join(format!("workers-{}.log", orders.index));
        let clock = Clock::new(dir.join(format!("clock-workers-{}", orders.index)));
        let process = Mutex::new(spawn_workers(&orders, 0, clock.as_ref(), &log));
        Self {
            process,
            clock,
            orders,
            generation: AtomicUsize::new(1),
            log,
        }
    }

    /// Starts the next process, with a new build id.
    pub fn spawn(&self) -> Process {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed);
        spawn_workers(&self.orders, generation, self.clock.as_ref(), &self.log)
    }
}

fn spawn_workers(orders: &Orders, generation: usize, clock: Option<&Clock>, log: &Path) -> Process {
    let name = format!("process-{}.{generation}", orders.index);
    let mut command = Orders {
        name,
        build: format!("build-{generation}"),
        ..orders.clone()
    }
    .command();
    clock.into_iter().for_each(|clock| clock.rule(&mut command));
    Process::start(command, log)
}

/// A session in the server's schema.
pub async fn session(url: &str) -> Result<Client, String> {
    let connect = async {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        tokio::spawn(connection);
        client
            .batch_execute(&format!("SET search_path TO {SCHEMA}"))
            .await?;
        Ok(client)
    };
    let connected = tokio::time::timeout(Duration::from_secs(3), connect).await;
    connected
        .map_err(|_| "no answer".to_owned())?
        .map_err(|error: tokio_postgres::Error| error.to_string())
}

/// A port below the range of ephemeral ports; otherwise an outgoing connection could take it while
/// its server is down.
fn free_port(rng: &mut Rng) -> u16 {
    loop {
        let port = u16::try_from(rng.within(20_000..32_000)).unwrap();
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// The last lines of a log.
pub fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().rev().take(3).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}
