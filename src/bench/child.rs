//! The measured processes, the server and the workers; both run this same binary.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use super::error::Error;

/// How long the server may take to listen, and the workers to connect.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long either may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A process that is killed when it is dropped.
struct Process(Child);

impl Process {
    fn start(command: &mut Command) -> Result<Self, Error> {
        command
            .spawn()
            .map(Self)
            .map_err(Error::io("start a process"))
    }

    fn this_binary() -> Result<Command, Error> {
        std::env::current_exe()
            .map(Command::new)
            .map_err(Error::io("find this program"))
    }

    fn id(&self) -> u32 {
        self.0.id()
    }

    /// Whether the process ended within `limit`.
    async fn ended(&mut self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while matches!(self.0.try_wait(), Ok(None)) {
            if Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        true
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that the process has ended; the wait collects its status.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A `tasker server`.
pub struct ServerProcess {
    pub url: String,
    process: Process,
}

impl ServerProcess {
    /// Starts a server on a free port, and returns once it listens.
    pub async fn start(database_url: &str, schema: &str) -> Result<Self, Error> {
        let mut command = Process::this_binary()?;
        command
            .args([
                "server",
                "--migrate",
                "--listen",
                "127.0.0.1:0",
                "--schema",
                schema,
            ])
            // The stored history of a bench is artificial and old; retention must not remove it.
            .args(["--retain", "forever"])
            .args([
                "--lease-seconds",
                "10",
                "--drain-seconds",
                "1",
                "--log",
                "warn",
            ])
            .env("TASKER_DATABASE_URL", database_url)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut process = Process::start(&mut command)?;
        let (say, said) = oneshot::channel();
        let mut lines = lines(process.0.stdout.take());
        // The first line is the server's URL. Reading it blocks, so it has its own thread.
        thread::spawn(move || say.send(lines.next().unwrap_or_default()));
        let url = tokio::time::timeout(START_LIMIT, said)
            .await
            .ok()
            .and_then(Result::ok)
            .unwrap_or_default();
        match url.starts_with("http://") {
            true => Ok(Self { url, process }),
            false => Err(Error::Stopped(
                "the server did not start; see its log".into(),
            )),
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends SIGTERM, and after the time limit SIGKILL.
    pub async fn stop(mut self) {
        let _ = kill_process(Pid::from_child(&self.process.0), Signal::TERM);
        self.process.ended(STOP_LIMIT).await;
    }
}

/// One attempt that the workers ran, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub task_id: Uuid,
    pub step: String,
    pub attempt: i32,
    pub times: u32,
}

/// A process that runs workers.
pub struct WorkersProcess {
    process: Process,
    stdin: Option<ChildStdin>,
    state: watch::Receiver<State>,
    runs: oneshot::Receiver<Vec<Run>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    ready: bool,
    finished: u64,
}

impl WorkersProcess {
    /// Starts the process, and returns once all its workers are connected.
    pub async fn start(server: &str, workers: usize, slots: usize) -> Result<Self, Error> {
        let mut command = Process::this_binary()?;
        command
            .args(["bench-worker", "--server", server])
            .args([
                "--workers",
                &workers.to_string(),
                "--slots",
                &slots.to_string(),
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = Process::start(&mut command)?;
        let (tell, mut state) = watch::channel(State::default());
        let (hand_over, runs) = oneshot::channel();
        // Read until the end by a thread: a full pipe would block the workers.
        let lines = lines(process.0.stdout.take());
        thread::spawn(move || hand_over.send(listen(lines, &tell)));
        let ready = tokio::time::timeout(START_LIMIT, state.wait_for(|s| s.ready))
            .await
            .is_ok_and(|s| s.is_ok());
        if !ready {
            return Err(Error::Stopped(
                "the workers did not connect; see their log".into(),
            ));
        }
        let stdin = process.0.stdin.take();
        Ok(Self {
            process,
            stdin,
            state,
            runs,
        })
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// The number of chains that the workers have finished.
    pub fn finished(&self) -> u64 {
        self.state.borrow().finished
    }

    /// Waits until the workers have finished more than `seen` chains.
    pub async fn finished_more(&self, seen: u64) -> Result<u64, Error> {
        let mut state = self.state.clone();
        let state = state.wait_for(|s| s.finished > seen).await;
        state
            .map(|s| s.finished)
            .map_err(|_| Error::Stopped("the workers' process ended early".into()))
    }

    /// Lets the workers finish, and returns their runs.
    pub async fn stop(mut self) -> Result<Vec<Run>, Error> {
        // The workers' process drains at the end of its stdin, and then writes its runs.
        drop(self.stdin.take());
        let late = || Error::Stopped("the workers did not end in time".into());
        let runs = tokio::time::timeout(STOP_LIMIT, &mut self.runs)
            .await
            .map_err(|_| late())?
            .map_err(|_| late())?;
        self.process.ended(STOP_LIMIT).await;
        Ok(runs)
    }
}

/// Reads the lines of the workers until they end.
fn listen(lines: impl Iterator<Item = String>, tell: &watch::Sender<State>) -> Vec<Run> {
    let mut runs = Vec::new();
    for line in lines {
        if line == "ready" {
            tell.send_modify(|s| s.ready = true);
        } else if let Some(finished) = line.strip_prefix("finished ").and_then(|n| n.parse().ok()) {
            tell.send_modify(|s| s.finished = finished);
        } else {
            runs.extend(parse_run(&line));
        }
    }
    runs
}

fn parse_run(line: &str) -> Option<Run> {
    let mut words = line.strip_prefix("run ")?.split(' ');
    Some(Run {
        task_id: words.next()?.parse().ok()?,
        step: words.next()?.to_owned(),
        attempt: words.next()?.parse().ok()?,
        times: words.next()?.parse().ok()?,
    })
}

fn lines(stdout: Option<ChildStdout>) -> impl Iterator<Item = String> + Send + 'static {
    stdout
        .into_iter()
        .flat_map(|out| BufReader::new(out).lines().map_while(Result::ok))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_of_the_workers_is_parsed() {
        let id = Uuid::from_u128(7);
        let said = [
            "ready".to_owned(),
            "finished 3".to_owned(),
            "noise".to_owned(),
            format!("run {id} a 2 1"),
        ];
        let (tell, state) = watch::channel(State::default());
        let runs = listen(said.into_iter(), &tell);
        assert_eq!(
            runs,
            [Run {
                task_id: id,
                step: "a".into(),
                attempt: 2,
                times: 1
            }]
        );
        assert!(state.borrow().ready && state.borrow().finished == 3);
    }
}
