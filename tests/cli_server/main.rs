//! The real `tasker` binary end to end: as a client of a real server, as the server, and for the
//! preparation of its database.

#[path = "../support/mod.rs"]
mod support;

mod addresses;
mod commands;
mod database;
mod dev;
mod dropped;
mod encryption;
mod ending;
mod fit;
mod folders;
mod operators;
mod pooler;
mod settings;
mod terminal;

use std::{
    env,
    ffi::OsStr,
    process::{Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use self::support::server::PATIENCE;

/// The output and exit code of a command.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    /// stdout of a command that succeeded.
    fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// stderr of a command that failed with this code and printed no data.
    fn failed(self, code: i32) -> String {
        assert_eq!(
            (self.code, self.stdout.as_str()),
            (Some(code), ""),
            "{self:?}"
        );
        self.stderr
    }
}

/// The binary, without the caller's settings.
fn tasker<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tasker"));
    for (name, _) in
        env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TASKER_"))
    {
        // The machine decides where the private Postgres comes from.
        if name != "TASKER_POSTGRES_BIN" {
            command.env_remove(name);
        }
    }
    command
        .args(args)
        .env("LC_ALL", "C.UTF-8")
        .env("USER", "ann")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

async fn run(mut command: Command) -> Ended {
    let run = tokio::time::timeout(PATIENCE, command.output());
    let Output {
        status,
        stdout,
        stderr,
    } = run.await.expect("the command does not end").unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ended {
        code: status.code(),
        stdout: text(stdout),
        stderr: text(stderr),
    }
}

/// A `tasker server` or `tasker dev` that listens.
struct Listening {
    url: String,
    child: Child,
}

impl Listening {
    async fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        tokio::time::timeout(PATIENCE, stdout.read_line(&mut line))
            .await
            .expect("it does not listen")
            .unwrap();
        let url = line.trim().to_owned();
        assert!(
            url.starts_with("http://127.0.0.1:"),
            "expected an address on stdout, got {line:?}"
        );
        Self { url, child }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().unwrap().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for its end and returns the exit code; `None` when a signal killed it.
    async fn end(mut self) -> Option<i32> {
        tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .expect("it does not end")
            .unwrap()
            .code()
    }
}

/// `tasker server` on a free port, with a short lease.
fn server(database_url: &str, more: &[&str]) -> Command {
    let mut command = tasker([
        "server",
        "--listen",
        "127.0.0.1:0",
        "--lease-seconds",
        "2",
        "--log",
        "warn",
    ]);
    command.args(more).env("TASKER_DATABASE_URL", database_url);
    command
}
