//! The postmaster as a child process that never outlives this one.

use std::{
    fs, io,
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Command, ExitStatus},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;

/// How a running server is asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shutdown {
    /// Ends sessions and writes a checkpoint: the next start needs no recovery.
    Fast,
    /// Ends at once; the next start recovers from the log. For data that is not used again.
    Immediate,
}

impl Shutdown {
    fn signal(self) -> Signal {
        match self {
            Self::Fast => Signal::INT,
            Self::Immediate => Signal::QUIT,
        }
    }
}

/// A running postmaster, and its exit status once it has ended.
#[derive(Debug)]
pub(crate) struct Postmaster {
    pid: Pid,
    exit: watch::Receiver<Option<ExitStatus>>,
}

impl Postmaster {
    /// Starts `command` on a thread that lives as long as the server. The kernel sends the
    /// parent-death signal when the *thread* that forked ends, so no thread of a pool may be the
    /// parent.
    pub(crate) fn spawn(mut command: Command, when_we_die: Shutdown) -> io::Result<Self> {
        // Ctrl-C in a terminal must reach this process alone, which decides when the database
        // stops.
        command.process_group(0);
        end_with_parent(&mut command, when_we_die.signal());
        let (started, start) = mpsc::sync_channel(1);
        let (ended, exit) = watch::channel(None);
        thread::Builder::new()
            .name("postgres-parent".into())
            .spawn(move || match command.spawn() {
                Ok(mut child) => {
                    // The receiver waits for this one message, so the send succeeds.
                    let _ = started.send(Ok(child.id()));
                    ended.send_replace(Some(child.wait().unwrap_or_default()));
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                }
            })?;
        let id = start.recv().map_err(io::Error::other)??;
        let pid = i32::try_from(id)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or_else(|| io::Error::other("no pid"))?;
        Ok(Self { pid, exit })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// The exit status of the server, once it has ended.
    pub(crate) fn exited(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// A receiver of the exit status, set when the server has ended.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<ExitStatus>> {
        self.exit.clone()
    }

    pub(crate) fn ask(&self, how: Shutdown) {
        if self.exited().is_none() {
            // The server may end between the check and the signal, which is as good.
            let _ = kill_process(self.pid, how.signal());
        }
    }

    /// Whether the server ended within `limit`.
    pub(crate) async fn ended_within(&self, limit: Duration) -> bool {
        let mut exit = self.exit.clone();
        tokio::time::timeout(limit, exit.wait_for(Option::is_some))
            .await
            .is_ok()
    }

    /// Like [`Self::ended_within`], for callers that cannot await.
    pub(crate) fn ended_within_blocking(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        poll_until(until, || self.exited().is_some())
    }

    /// Sends SIGKILL to the server and every process it forked, as in a power cut; returns when
    /// they are gone, after five seconds at the latest.
    pub(crate) fn kill_all(&self) {
        if self.exited().is_some() {
            return;
        }
        // A stopped postmaster forks no more children meanwhile.
        let _ = kill_process(self.pid, Signal::STOP);
        let family = children(self.pid());
        let _ = kill_process(self.pid, Signal::KILL);
        for pid in &family {
            if let Some(pid) = i32::try_from(*pid).ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        let until = Instant::now() + Duration::from_secs(5);
        poll_until(until, || {
            self.exited().is_some() && !family.iter().any(|pid| is_alive(*pid))
        });
    }
}

fn poll_until(until: Instant, done: impl Fn() -> bool) -> bool {
    while !done() {
        if Instant::now() >= until {
            return false;
        }
        thread::sleep(Duration::from_millis(2));
    }
    true
}

#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "the parent-death signal can only be set between fork and exec"
)]
fn end_with_parent(command: &mut Command, signal: Signal) {
    let parent = rustix::process::getpid();
    let set = move || {
        rustix::process::set_parent_process_death_signal(Some(signal))?;
        // The parent may have died before the line above; then no signal would follow.
        if rustix::process::getppid() == Some(parent) {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(3))
        }
    };
    // SAFETY: the closure makes two system calls and allocates nothing, which is what a forked
    // child may do. It runs after the uid has changed; changing it afterwards would clear the
    // setting.
    unsafe { command.pre_exec(set) };
}

/// Only Linux has a parent-death signal. Elsewhere a SIGKILL of this process leaves the server
/// behind, and the next start on the same folder reports it.
#[cfg(not(target_os = "linux"))]
fn end_with_parent(_: &mut Command, _: Signal) {}

/// The running processes that `parent` forked.
fn children(parent: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| stat(*pid).is_some_and(|(_, ppid)| ppid == parent))
        .collect()
}

/// Whether the process exists and is not a zombie.
fn is_alive(pid: u32) -> bool {
    if cfg!(target_os = "linux") {
        return stat(pid).is_some_and(|(state, _)| state != 'Z' && state != 'X');
    }
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .is_some_and(|pid| {
            matches!(
                rustix::process::test_kill_process(pid),
                Ok(()) | Err(rustix::io::Errno::PERM)
            )
        })
}

/// State and parent of a process, from `/proc/<pid>/stat`. The name before them is in brackets and
/// may contain anything.
fn stat(pid: u32) -> Option<(char, u32)> {
    let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = line.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// The live postmaster of a data folder, from its `postmaster.pid`. A file left by a crash, whose
/// number now belongs to another process, counts as none.
pub(crate) fn postmaster_of(data: &Path) -> Option<u32> {
    let file = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid = file.lines().next()?.trim().parse().ok()?;
    if !is_alive(pid) {
        return None;
    }
    // A postmaster's working directory is its data folder.
    match (
        fs::read_link(format!("/proc/{pid}/cwd")),
        data.canonicalize(),
    ) {
        (Ok(cwd), Ok(data)) if cwd != data => None,
        _ => Some(pid),
    }
}

/// The exit status of a process in words.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (_, Some(signal)) => format!("signal {signal}"),
        _ => "unknown status".into(),
    }
}
