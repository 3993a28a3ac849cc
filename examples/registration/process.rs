//! Child processes that are restarted when they die: the parts of the demo may be killed while it
//! runs.

use std::{
    io,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    signal::{
        ctrl_c,
        unix::{SignalKind, signal},
    },
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// How long a process may take to end by itself.
const STOP_LIMIT: Duration = Duration::from_secs(15);
/// A process that lives shorter than this counts as a failed start.
const QUICK_DEATH: Duration = Duration::from_secs(2);
/// A process is given up after this many failed starts in a row.
const MAX_QUICK_DEATHS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

/// Waits for SIGTERM or SIGINT.
pub async fn told_to_end() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupted = ctrl_c() => interrupted,
    }
}

/// A process that is kept running.
pub struct Supervised {
    stop: CancellationToken,
    given_up: CancellationToken,
    task: JoinHandle<()>,
}

impl Supervised {
    /// Starts it, and restarts it whenever it ends.
    pub fn start(name: String, command: impl Fn() -> Command + Send + 'static) -> Self {
        let (stop, given_up) = (CancellationToken::new(), CancellationToken::new());
        let task = tokio::spawn(supervise(name, command, stop.clone(), given_up.clone()));
        Self {
            stop,
            given_up,
            task,
        }
    }

    /// Resolves when it is given up because it does not stay up.
    pub fn given_up(&self) -> impl Future<Output = ()> + use<> {
        self.given_up.clone().cancelled_owned()
    }

    /// Asks it to end, and kills it if it does not.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

async fn supervise(
    name: String,
    command: impl Fn() -> Command,
    stop: CancellationToken,
    given_up: CancellationToken,
) {
    let mut quick_deaths = 0;
    while quick_deaths < MAX_QUICK_DEATHS {
        let born = Instant::now();
        let ending = match spawn(command()) {
            Ok(mut child) => {
                eprintln!("{name}: process {}", child.id().unwrap_or_default());
                let Some(status) = stop.run_until_cancelled(child.wait()).await else {
                    return end(child).await;
                };
                status.map(|status: ExitStatus| status.to_string())
            }
            Err(error) => Err(error),
        };
        quick_deaths = if born.elapsed() < QUICK_DEATH {
            quick_deaths + 1
        } else {
            0
        };
        eprintln!(
            "{name} ended ({}); starting it again",
            ending.unwrap_or_else(|error| error.to_string())
        );
        if stop.run_until_cancelled(sleep(PAUSE)).await.is_none() {
            return;
        }
    }
    eprintln!("{name} does not stay up");
    given_up.cancel();
}

fn spawn(mut command: Command) -> io::Result<Child> {
    end_with_parent(&mut command);
    // Its own process group: Ctrl-C reaches the demo alone, which then ends the others in order.
    // Stdout is reserved for the table.
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
}

/// Ends the child with the demo, even if the demo is killed. The kernel sends the signal when the
/// thread that forked ends; the runtime's threads live as long as the process.
#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "the parent-death signal can only be set between fork and exec"
)]
fn end_with_parent(command: &mut Command) {
    let set = || {
        rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
            .map_err(io::Error::from)
    };
    // SAFETY: the closure makes one system call, and touches no memory or lock of the parent.
    unsafe { command.pre_exec(set) };
}

#[cfg(not(target_os = "linux"))]
fn end_with_parent(_: &mut Command) {}

/// Sends SIGTERM, and SIGKILL if the process does not end in time.
async fn end(mut child: Child) {
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
        let _ = kill_process(pid, Signal::TERM);
    }
    if timeout(STOP_LIMIT, child.wait()).await.is_err() {
        let _ = child.kill().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn process_that_keeps_failing_is_abandoned() {
        let broken = Supervised::start("broken".to_owned(), || Command::new("false"));
        timeout(Duration::from_secs(10), broken.given_up())
            .await
            .unwrap();
        broken.stop().await;
    }

    #[tokio::test]
    async fn process_ends_on_stop() {
        let sleeper = Supervised::start("sleeper".to_owned(), || {
            let mut command = Command::new("sleep");
            command.arg("60");
            command
        });
        sleep(Duration::from_millis(100)).await;
        timeout(Duration::from_secs(5), sleeper.stop())
            .await
            .unwrap();
    }
}
