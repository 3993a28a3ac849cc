//! The connection of one engine loop, and its round trips: statements sent together.

use std::{
    ops::Index,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use tokio_postgres::{Client, Row, Statement};

use super::{encode::Params, statements::Statements};
use crate::store::{Db, StoreError};

/// A connection owned by one engine loop. It sends the statements of a round trip without waiting
/// between them.
pub struct Pipeline {
    pub(super) client: Client,
    pub(super) statements: Statements,
    pub(super) channel: String,
    /// Whether a transaction has begun and not ended.
    pub(super) open: AtomicBool,
}

/// Limit on a rollback and on the preparation of the statements: neither has anything to wait for.
const PROMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit on the answer to a round trip. It exceeds the database's statement timeout, so a connection
/// that has not answered by then is given up.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);

pub(super) async fn in_time<T, E>(
    limit: Duration,
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, StoreError>
where
    StoreError: From<E>,
{
    Ok(tokio::time::timeout(limit, answer)
        .await
        .map_err(|_| StoreError::silent())??)
}

/// Statements sent together. The database runs them in the order in which they were added, and
/// `run` returns the first error.
pub(super) struct RoundTrip<'a> {
    calls: Vec<(&'a Statement, Params<'a>)>,
}

impl<'a> RoundTrip<'a> {
    pub(super) fn new() -> Self {
        Self {
            calls: Vec::with_capacity(16),
        }
    }

    /// Adds a statement and returns the index of its rows.
    pub(super) fn add(&mut self, statement: &'a Statement, params: Params<'a>) -> usize {
        self.calls.push((statement, params));
        self.calls.len() - 1
    }

    /// Adds a statement unless its list is empty.
    pub(super) fn add_some(
        &mut self,
        statement: &'a Statement,
        params: Option<Params<'a>>,
    ) -> Option<usize> {
        params.map(|params| self.add(statement, params))
    }

    /// Sends all statements and waits for all answers.
    ///
    /// `join_all` polls up to 30 futures in order, and the first poll of a query sends it; a
    /// `RoundTrip` is always shorter, so the statements are sent in order.
    ///
    /// It waits for every answer, since each error after the first reports only that the
    /// transaction is aborted, and such an error could otherwise arrive first.
    pub(super) async fn run(self, client: &Client) -> Result<Answers, StoreError> {
        debug_assert!(
            self.calls.len() <= 30,
            "a longer round trip could be sent out of order"
        );
        let answers = join_all(
            self.calls
                .iter()
                .map(|(statement, params)| client.query(*statement, params)),
        );
        let answers = in_time(ANSWER_TIMEOUT, async { Ok::<_, StoreError>(answers.await) }).await?;
        Ok(Answers(answers.into_iter().collect::<Result<_, _>>()?))
    }
}

/// The rows of each statement of a round trip, by the statement's index.
pub(super) struct Answers(Vec<Vec<Row>>);

impl Answers {
    /// The rows of a statement; none if it was not sent.
    pub(super) fn of(&self, statement: Option<usize>) -> &[Row] {
        statement.map_or(&[], |index| &self[index])
    }
}

impl Index<usize> for Answers {
    type Output = [Row];

    fn index(&self, statement: usize) -> &[Row] {
        &self.0[statement]
    }
}

impl Pipeline {
    /// Connects and prepares the statements.
    pub async fn connect(db: &Db) -> Result<Self, StoreError> {
        let client = db.connect_dedicated().await?;
        let statements = in_time(PROMPT_TIMEOUT, Statements::prepare(&client)).await?;
        Ok(Self {
            client,
            statements,
            channel: db.channel(),
            open: AtomicBool::new(false),
        })
    }

    /// A round trip that starts with `BEGIN`.
    pub(super) fn transaction(&self) -> RoundTrip<'_> {
        self.open.store(true, Ordering::Relaxed);
        let mut trip = RoundTrip::new();
        trip.add(&self.statements.begin, vec![]);
        trip
    }

    /// Whether the connection is closed for good.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Ends the open transaction, if any, without writing. A transaction whose writes failed has
    /// ended with them, and Postgres would warn about a `ROLLBACK` without a transaction.
    pub async fn rollback(&self) -> Result<(), StoreError> {
        if !self.open.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        in_time(PROMPT_TIMEOUT, self.client.batch_execute("ROLLBACK")).await
    }
}

/// An interval of the database; a negative one is zero.
pub(super) fn seconds(s: f64) -> Duration {
    Duration::try_from_secs_f64(s.max(0.0)).unwrap_or_default()
}
