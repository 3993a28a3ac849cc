//! Why a measurement could not be made.

use std::io;

use tasker_worker::client::ConnectError;
use tonic::Status;

use crate::store::StoreError;

/// A measurement that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Postgres(#[from] tasker_devdb::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{error}: {}", source_of(.error))]
    Connect {
        #[from]
        error: ConnectError,
    },
    #[error("cannot {what}: {:?}: {}", .status.code(), .status.message())]
    Refused { what: &'static str, status: Status },
    #[error("cannot {what}: {error}")]
    Io {
        what: &'static str,
        error: io::Error,
    },
    /// A part of the measured system ended, or missed its time limit.
    #[error("{0}")]
    Stopped(String),
}

impl Error {
    /// For `map_err`: `what` names the attempted action, such as `start the server`.
    pub fn io(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::Io { what, error }
    }

    /// For `map_err`: `what` names the attempted action, such as `submit tasks`.
    pub fn refused(what: &'static str) -> impl FnOnce(Status) -> Self {
        move |status| Self::Refused { what, status }
    }
}

fn source_of(error: &ConnectError) -> String {
    std::error::Error::source(error)
        .map(ToString::to_string)
        .unwrap_or_default()
}
