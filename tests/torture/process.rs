//! A child process that is killed, stopped and started again.

use std::{
    fs::OpenOptions,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

const LOOK: Duration = Duration::from_millis(20);

/// Dropping it kills it.
pub struct Process {
    child: Child,
    pub log: PathBuf,
}

impl Process {
    /// Starts it; what it says on stderr is added to the file.
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
        // One that is gone has its status waiting, so its number belongs to nobody else.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How it ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Closes its stdin.
    pub fn hang_up(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for its end; `None` when it stays for longer. Counts looks, not time: a machine that stands still is not the
    /// process's fault.
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
