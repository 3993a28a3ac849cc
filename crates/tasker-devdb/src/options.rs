//! How a private Postgres is to be started.

use std::path::PathBuf;

use crate::find::Binaries;

/// How to start a [`Cluster`](crate::Cluster). [`Options::default`] is a temporary database that is durable while
/// it exists.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the data is kept between runs; `None` for a temporary folder that is removed with the
    /// cluster. [`crate::default_dir`] is the user's own.
    pub data_dir: Option<PathBuf>,
    /// The port on 127.0.0.1; 0 picks a free one.
    pub port: u16,
    /// Whether a commit survives a crash of the machine (fsync). Without it, it survives a crash of
    /// the server only.
    pub durable: bool,
    /// Further settings, as in `postgresql.conf`; they take precedence over the cluster's own.
    pub settings: Vec<(String, String)>,
    /// The server to run; `None` finds one.
    pub binaries: Option<Binaries>,
    /// A folder that caches the output of initdb, so that the next new cluster is a copy. Clusters
    /// made from one cache share its password: for tests.
    pub initdb_cache: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            data_dir: None,
            port: 0,
            durable: true,
            settings: Vec::new(),
            binaries: None,
            initdb_cache: None,
        }
    }
}
