//! What can go wrong between the engine and Postgres, sorted by what to do about it.

use deadpool::managed::PoolError;
use tokio_postgres::error::SqlState;

use super::counts::Collision;

/// A database call that failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A statement failed.
    #[error("database: {}", describe(.0))]
    Database(#[from] tokio_postgres::Error),
    /// No connection could be had in time.
    #[error("no database connection: {0}")]
    Connection(String),
    /// The database URL or the schema name is not usable.
    #[error("{0}")]
    Config(String),
    /// The database's schema is not what this build needs.
    #[error("{0}")]
    Schema(String),
    /// The database, or the way to it, cannot be used as it is: the words say what to change.
    #[error("{0}")]
    Unfit(String),
    /// The database takes no writes at present.
    #[error("{0}")]
    ReadOnly(String),
    /// A row does not hold what this build wrote.
    #[error("unexpected data in the database: {0}")]
    Corrupt(String),
}

impl StoreError {
    /// The database took the question and does not answer.
    pub(super) fn silent() -> Self {
        Self::Connection("no answer in time".into())
    }

    /// How much it says about why none of several hosts serves.
    pub(super) fn weight(&self) -> u8 {
        match self {
            Self::Unfit(_) | Self::ReadOnly(_) => 2,
            Self::Database(error) if error.code().is_some() => 1,
            _ => 0,
        }
    }

    /// Whether a text had a character that no text in the database can have, or was not UTF-8.
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

    /// Whether the same call may well succeed soon: the connection broke, the server restarts, or transactions collided.
    pub fn is_transient(&self) -> bool {
        match self {
            // Those who have been served so far come back when it is mended; a start does not wait for that.
            Self::Connection(_) | Self::Unfit(_) | Self::ReadOnly(_) => true,
            Self::Database(error) => match error.code() {
                None => true,
                Some(code) => {
                    *code == SqlState::T_R_SERIALIZATION_FAILURE
                        || *code == SqlState::T_R_DEADLOCK_DETECTED
                        || *code == SqlState::LOCK_NOT_AVAILABLE
                        || *code == SqlState::QUERY_CANCELED
                        // This process stood still in the middle of a transaction, or Postgres did.
                        || *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
                        // A standby that is about to be promoted.
                        || *code == SqlState::READ_ONLY_SQL_TRANSACTION
                        || ["08", "53", "57", "58"].iter().any(|class| code.code().starts_with(class))
                }
            },
            Self::Config(_) | Self::Schema(_) | Self::Corrupt(_) => false,
        }
    }

    /// Whether a statement was given up because it took too long.
    pub fn is_timeout(&self) -> bool {
        let Self::Database(error) = self else {
            return false;
        };
        error.code() == Some(&SqlState::QUERY_CANCELED)
    }

    /// How a transaction failed, by the code of Postgres, where that may be for what was in it: it took too long, or its session
    /// was ended meanwhile. Nothing for a database that is away or that is about to end, and for collisions.
    pub fn way(&self) -> Option<&str> {
        let Self::Database(error) = self else {
            return None;
        };
        // A connection that is refused or lost says nothing of Postgres' own: the database is away, and no input is to blame.
        let code = error.code()?.code();
        let others = ["08", "40", "53", "57P", "58", "55P03", "25006"];
        (!others.iter().any(|class| code.starts_with(class))).then_some(code)
    }

    /// Whether the transaction met another one.
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

    /// Whether `expect_rows` failed: the rows were not what they were believed to be, and nothing was written.
    pub fn is_expectation(&self) -> bool {
        let Self::Database(error) = self else {
            return false;
        };
        error.code() == Some(&SqlState::INVALID_TEXT_REPRESENTATION)
    }

    /// Whether it was about who may pass to a service.
    pub fn is_gate(&self) -> bool {
        let Self::Database(error) = self else {
            return false;
        };
        let about = |what: &str| {
            error
                .as_db_error()
                .is_some_and(|db| db.message().contains(what))
        };
        self.is_expectation() && (about("gates: ") || about("permits: "))
    }

    /// Whether the role may not do what was asked for.
    pub fn is_denied(&self) -> bool {
        let Self::Database(error) = self else {
            return false;
        };
        error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)
    }

    /// Whether Postgres answered that the URL is wrong: the user, the password, the database's name, or what the user may
    /// do there; or what it found there will not do. Waiting does not help.
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

/// tokio-postgres prints only "db error"; what the server said is one level down.
fn describe(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(db), _) => format!("{} ({})", db.message(), db.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}
