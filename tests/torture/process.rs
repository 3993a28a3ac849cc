//! A child process that is killed, stopped and started again.

use std::{
    fs::OpenOptions,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

const LOOK: Duration = Duration::from_millis(20);

/// Dropping it kills the process.
pub struct Process {
    child: Child,
    pub log: PathBuf,
}

impl Process {
    /// Starts the process; its stderr is appended to the file.
    pub fn start(mut command: Command, log: &Path) -> Self {
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .unwrap();
        let child = command
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self {
            child,
            log: log.to_owned(),
        }
    }

    pub fn signal(&self, signal: Signal) {
        // An ended process stays a zombie until it is waited for, so its id is not reused.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Sends SIGKILL and waits for the end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The exit status, if the process has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Closes its stdin.
    pub fn hang_up(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for the end; `None` when the process runs for longer. Counts polls, not time, so that
    /// a machine that stands still is not counted against the process.
    pub async fn ended_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        for _ in 0..limit.as_millis() / LOOK.as_millis() {
            if let Some(status) = self.exited() {
                return Some(status);
            }
            tokio::time::sleep(LOOK).await;
        }
        self.exited()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
