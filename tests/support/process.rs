//! The real binary, as a process that a test can kill.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use super::{SCHEMA, server::PATIENCE};

/// Warnings and errors, and the changes of the database's health.
const LOG: &str = "warn,tasker::engine::observe::health=info";

/// Waits until the server at this URL has read its templates: before, it refuses calls that have
/// waited for a second, which is short on a busy machine. Returns early if nothing listens there,
/// as when the server's start failed.
pub fn wait_until_started(url: &str) {
    let address = url.trim_start_matches("http://");
    let started = Instant::now();
    while is_starting(address).unwrap_or_default() {
        assert!(started.elapsed() < PATIENCE, "{url} did not start");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn is_starting(address: &str) -> std::io::Result<bool> {
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    connection.write_all(request.as_bytes())?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    Ok(answer.contains("starting: "))
}

/// A `tasker server` process. Dropping it kills it.
pub struct ServerProcess {
    pub url: String,
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl ServerProcess {
    /// Starts a server on a free port and returns once it has started.
    pub fn start(database_url: &str) -> Self {
        Self::start_at(database_url, "127.0.0.1:0")
    }

    /// Starts a server at an address; a restarted server keeps its address.
    pub fn start_at(database_url: &str, listen: &str) -> Self {
        Self::start_with(database_url, &["--listen", listen, "--log", LOG], &[])
    }

    /// Starts a server with these options and this environment.
    pub fn start_with(database_url: &str, args: &[&str], env: &[(&str, &str)]) -> Self {
        Self::spawn(
            Command::new(env!("CARGO_BIN_EXE_tasker")),
            database_url,
            args,
            env,
        )
    }

    /// Starts a server with this limit of open files.
    pub fn start_with_files(database_url: &str, files: usize) -> Self {
        let mut shell = Command::new("sh");
        shell.args([
            "-c",
            &format!("ulimit -n {files} && exec \"$0\" \"$@\""),
            env!("CARGO_BIN_EXE_tasker"),
        ]);
        Self::spawn(
            shell,
            database_url,
            &["--listen", "127.0.0.1:0", "--log", LOG],
            &[],
        )
    }

    fn spawn(
        mut command: Command,
        database_url: &str,
        args: &[&str],
        env: &[(&str, &str)],
    ) -> Self {
        let mut child = command
            .args(["server", "--schema", SCHEMA, "--lease-seconds", "3"])
            .args(args)
            .env("TASKER_DATABASE_URL", database_url)
            .envs(env.iter().copied())
            .env("NO_COLOR", "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::<Mutex<Vec<String>>>::default();
        let (said, heard) = (
            BufReader::new(child.stderr.take().unwrap()),
            Arc::clone(&log),
        );
        std::thread::spawn(move || {
            for line in said.lines().map_while(Result::ok) {
                eprintln!("{line}");
                heard.lock().unwrap().push(line);
            }
        });
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let url = line.trim().to_owned();
        assert!(
            url.starts_with("http://"),
            "the server did not start: {line:?}"
        );
        wait_until_started(&url);
        Self { url, child, log }
    }

    /// The lines of its log so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// The resident memory of the process, in MiB.
    pub fn memory_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status
            .lines()
            .find(|line| line.starts_with("VmRSS:"))
            .unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<u64>()
            .unwrap()
            / 1_024
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Sends SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGSTOP: the process is suspended until [`Self::go_on`].
    pub fn stop(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// Sends SIGCONT.
    pub fn go_on(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)
            .unwrap();
    }

    /// Sends SIGTERM; returns the exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        self.signal(rustix::process::Signal::TERM);
        self.child.wait().unwrap().code()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
