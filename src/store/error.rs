//! Errors between the engine and Postgres, classified by the reaction to them.

use deadpool::managed::PoolError;
use tokio_postgres::error::SqlState;

use super::collision_metrics::Collision;

/// The label of `expect_rows` in the statements that check an admission. It begins their errors, by
/// which [`StoreError::is_stale_admission`] recognises them. A macro, since a statement is a
/// constant.
macro_rules! stale_admission {
    () => {
        "stale admission"
    };
    ($check:literal) => {
        concat!(stale_admission!(), " (", $check, ")")
    };
}
pub(super) use stale_admission;

/// A database call that failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A statement failed.
    #[error("database: {}", describe(.0))]
    Database(#[from] tokio_postgres::Error),
    /// No connection became available in time.
    #[error("no database connection: {0}")]
    Connection(String),
    /// The database URL or the schema name is not usable.
    #[error("{0}")]
    Config(String),
    /// The database's schema does not match this build.
    #[error("{0}")]
    Schema(String),
    /// The database, or the route to it, cannot be used as configured: the text states what to
    /// change.
    #[error("{0}")]
    Unfit(String),
    /// The database takes no writes at present.
    #[error("{0}")]
    ReadOnly(String),
    /// A row has a value that this build did not write.
    #[error("unexpected data in the database: {0}")]
    Corrupt(String),
}

impl StoreError {
    /// The database accepted a query and does not answer.
    pub(super) fn silent() -> Self {
        Self::Connection("no answer in time".into())
    }

    /// How specific the error is about why none of several hosts serves.
    pub(super) fn weight(&self) -> u8 {
        match self {
            Self::Unfit(_) | Self::ReadOnly(_) => 2,
            Self::Database(error) if error.code().is_some() => 1,
            _ => 0,
        }
    }

    /// Whether a text contained a character that the database cannot store, or was not UTF-8.
    pub fn is_bad_text(&self) -> bool {
        let Self::Database(error) = self else {
            return false;
        };
        let codes = [
            SqlState::CHARACTER_NOT_IN_REPERTOIRE,
            SqlState::UNTRANSLATABLE_CHARACTER,
        ];
        error.code().is_some_and(|code| codes.contains(code))
    }

    /// Whether the database answers and takes no writes.
    pub fn is_read_only(&self) -> bool {
        match self {
            Self::Database(error) => error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION),
            other => matches!(other, Self::ReadOnly(_)),
        }
    }

    /// Whether a repetition may succeed soon: the connection broke, the database restarts, or
    /// transactions collided.
    pub fn is_transient(&self) -> bool {
        match self {
            // A running server retries these until their cause is fixed; a start fails at once on
            // an unfit database (`is_refusal`).
            Self::Connection(_) | Self::Unfit(_) | Self::ReadOnly(_) => true,
            Self::Database(error) => match error.code() {
                None => true,
                Some(code) => {
                    *code == SqlState::T_R_SERIALIZATION_FAILURE
                        || *code == SqlState::T_R_DEADLOCK_DETECTED
                        || *code == SqlState::LOCK_NOT_AVAILABLE
                        || *code == SqlState::QUERY_CANCELED
                        // This process, or Postgres, stopped in the middle of a transaction.
                        || *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
                        // A standby that is about to be promoted.
                        || *code == SqlState::READ_ONLY_SQL_TRANSACTION
                        || ["08", "53", "57", "58"].iter().any(|class| code.code().starts_with(class))
                }
            },
            Self::Config(_) | Self::Schema(_) | Self::Corrupt(_) => false,
        }
    }

    /// Whether a statement was cancelled because it took too long.
    pub fn is_timeout(&self) -> bool {
        let Self::Database(error) = self else {
            return false;
        };
        error.code() == Some(&SqlState::QUERY_CANCELED)
    }

    /// The SQLSTATE of a failure that the content of the transaction may have caused: it took too
    /// long, or its session was ended meanwhile. `None` for a database that is away or shutting
    /// down, and for collisions.
    pub fn way(&self) -> Option<&str> {
        let Self::Database(error) = self else {
            return None;
        };
        // A refused or lost connection has no SQLSTATE: the database is away, and no input is to
        // blame.
        let code = error.code()?.code();
        let others = ["08", "40", "53", "57P", "58", "55P03", "25006"];
        (!others.iter().any(|class| code.starts_with(class))).then_some(code)
    }

    /// The kind of collision with another transaction, if it was one.
    pub fn collision(&self) -> Option<Collision> {
        let Self::Database(error) = self else {
            return None;
        };
        match error.code() {
            Some(code) if *code == SqlState::T_R_SERIALIZATION_FAILURE => {
                Some(Collision::Serialization)
            }
            Some(code) if *code == SqlState::T_R_DEADLOCK_DETECTED => Some(Collision::Deadlock),
            Some(code) if *code == SqlState::LOCK_NOT_AVAILABLE => Some(Collision::Lock),
            _ => None,
        }
    }

    /// Whether `expect_rows` failed: the rows differed from the expected ones, and nothing was
    /// written.
    pub fn is_expectation(&self) -> bool {
        let Self::Database(error) = self else {
            return false;
        };
        error.code() == Some(&SqlState::INVALID_TEXT_REPRESENTATION)
    }

    /// Whether an admission version or a quota share of a service was outdated.
    pub fn is_stale_admission(&self) -> bool {
        let Self::Database(error) = self else {
            return false;
        };
        let message = error.as_db_error().map_or("", |error| error.message());
        self.is_expectation() && message.contains(stale_admission!())
    }

    /// Whether the role lacks a privilege.
    pub fn is_denied(&self) -> bool {
        let Self::Database(error) = self else {
            return false;
        };
        error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)
    }

    /// Whether Postgres rejected the URL: the user, the password, the database's name, or the
    /// user's privileges there; or whether the database is unfit. Waiting does not help.
    pub fn is_refusal(&self) -> bool {
        let error = match self {
            Self::Database(error) => error,
            other => return matches!(other, Self::Unfit(_)),
        };
        error.code().is_some_and(|code| {
            code.code().starts_with("28")
                || [
                    SqlState::INVALID_CATALOG_NAME,
                    SqlState::INSUFFICIENT_PRIVILEGE,
                ]
                .contains(code)
        })
    }
}

impl From<PoolError<Self>> for StoreError {
    fn from(error: PoolError<Self>) -> Self {
        match error {
            PoolError::Backend(error) => error,
            other => Self::Connection(other.to_string()),
        }
    }
}

/// tokio-postgres prints only "db error"; the server's message is one level down.
fn describe(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(db), _) => format!("{} ({})", db.message(), db.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}
