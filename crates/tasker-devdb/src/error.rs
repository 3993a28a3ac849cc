//! Errors on the way from the request for a database to a server that answers.

use std::{io, path::PathBuf};

use crate::find::FindError;

/// Why the private Postgres did not start, or did not stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No usable binaries were found.
    #[error(transparent)]
    Find(#[from] FindError),
    /// A file or folder could not be read or written.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// The verb, as in "cannot create".
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The error of the system.
        source: io::Error,
    },
    /// Another live process uses this data folder.
    #[error("{} is in use by another process{}; stop it first, or name another data folder", dir.display(), pid.map(|p| format!(" (pid {p})")).unwrap_or_default())]
    InUse {
        /// The folder.
        dir: PathBuf,
        /// The process that uses it, if known.
        pid: Option<u32>,
    },
    /// The server outlived the process that started it.
    #[error("a Postgres (pid {pid}) without its parent process still runs on {}; stop it with `kill -INT {pid}`", dir.display())]
    Orphan {
        /// The folder.
        dir: PathBuf,
        /// The orphaned server.
        pid: u32,
    },
    /// Started as root, and the user that Postgres is to run as cannot reach the folder.
    #[error(
        "Postgres cannot run as root; its user `{user}` may not enter {}; name a data folder outside of it",
        blocked.display()
    )]
    Unreachable {
        /// The unprivileged user.
        user: String,
        /// The first folder on the path that the user may not enter.
        blocked: PathBuf,
    },
    /// Started as root on a system without an unprivileged user to run as.
    #[error(
        "Postgres cannot run as root, and this system has neither a user `postgres` nor a user `nobody`"
    )]
    NoUser,
    /// The data was written by another major version.
    #[error(
        "{} was made by PostgreSQL {made_by} and cannot be opened by PostgreSQL {major}; install that version or name \
         another data folder",
        dir.display()
    )]
    Major {
        /// The folder.
        dir: PathBuf,
        /// The major version in its `PG_VERSION`.
        made_by: u32,
        /// The major version of the binaries.
        major: u32,
    },
    /// There is no home directory for the data.
    #[error("the data folder is unknown: neither XDG_DATA_HOME nor HOME is set")]
    NoDataHome,
    /// `initdb` failed.
    #[error("initdb failed ({status}):\n{output}")]
    Initdb {
        /// Its exit status.
        status: String,
        /// Its output.
        output: String,
    },
    /// The server ended before it accepted connections.
    #[error("Postgres did not start ({status}); the end of {}:\n{tail}", log.display())]
    Start {
        /// Its exit status.
        status: String,
        /// The log file.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// The server runs but does not accept connections.
    #[error("Postgres accepts no connections after {seconds} s; the end of {}:\n{tail}", log.display())]
    NotReady {
        /// How long the start waited.
        seconds: u64,
        /// The log file.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
}

impl Error {
    /// For `map_err` on file operations: `.map_err(Error::io("create", path))`.
    pub(crate) fn io(
        doing: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io {
            doing,
            path,
            source,
        }
    }
}
