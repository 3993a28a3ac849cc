//! What can go wrong between "I want a database" and a server that answers.

use std::{io, path::PathBuf};

use super::find::FindError;

/// Why the private Postgres did not start, or did not stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No usable binaries.
    #[error(transparent)]
    Find(#[from] FindError),
    /// There was no way to get binaries.
    #[cfg(feature = "fetch-postgres")]
    #[error("cannot fetch PostgreSQL: {0}")]
    Fetch(String),
    /// A file or folder could not be read or written.
    #[error("cannot {doing} {}", path.display())]
    Io {
        /// The verb, as in "cannot create".
        doing: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another live process uses this data folder.
    #[error("{} is in use by another process{}; stop it first, or name another data folder", dir.display(), pid.map(|p| format!(" (pid {p})")).unwrap_or_default())]
    InUse {
        /// The folder.
        dir: PathBuf,
        /// The process that has it, if it could be told.
        pid: Option<u32>,
    },
    /// The process that started this server is gone and the server is not.
    #[error("a Postgres (pid {pid}) that nobody looks after still runs on {}; stop it with `kill -INT {pid}`", dir.display())]
    Orphan {
        /// The folder.
        dir: PathBuf,
        /// The orphaned server.
        pid: u32,
    },
    /// Started as root, and the user that Postgres is to run as cannot get to the folder.
    #[error(
        "Postgres cannot run as root and is to run as `{user}`, who may not enter {}; name a data folder outside of it",
        blocked.display()
    )]
    Unreachable {
        /// The unprivileged user.
        user: String,
        /// The first folder on the way that keeps the user out.
        blocked: PathBuf,
    },
    /// Started as root on a system with no user to become.
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
    /// No home directory to keep the data in.
    #[error("there is no folder to keep data in: neither XDG_DATA_HOME nor HOME is set")]
    NoDataHome,
    /// `initdb` failed.
    #[error("initdb failed ({status}):\n{output}")]
    Initdb {
        /// How it ended.
        status: String,
        /// What it said.
        output: String,
    },
    /// The server ended before it took connections.
    #[error("Postgres did not start ({status}); the end of {}:\n{tail}", log.display())]
    Start {
        /// How it ended.
        status: String,
        /// The log file.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
    /// The server runs and does not take connections.
    #[error("Postgres takes no connections after {seconds} s; the end of {}:\n{tail}", log.display())]
    NotReady {
        /// How long was waited.
        seconds: u64,
        /// The log file.
        log: PathBuf,
        /// Its last lines.
        tail: String,
    },
}

impl Error {
    /// For `map_err` on file operations: `.map_err(Error::io("create", path))`.
    pub(super) fn io(
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
