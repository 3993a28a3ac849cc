//! A pooled connection with a deadline for all its waits, set when it is taken: a Postgres that
//! accepts connections and never answers must not block a caller. A connection that is dropped
//! during a query cancels the query.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use deadpool::managed::Object;
use deadpool_postgres::Transaction;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Duration, Instant, timeout, timeout_at},
};
use tokio_postgres::{Row, Statement, ToStatement, types::ToSql};

use super::{
    StoreError,
    connect::STATEMENT_TIMEOUT_MS,
    pool::{Manager, Pool, Pooled},
};

/// How long an abandoned query may continue before Postgres is asked to cancel it. Most end by
/// themselves within that time, and the connection stays in the pool.
const LEFT_ALONE: Duration = Duration::from_millis(100);
/// Limit on a cancel request, and the wait for its effect before the second one; the wait then
/// doubles each time, since a stopped Postgres must not find thousands of requests when it
/// continues.
const CANCEL_WAIT: Duration = Duration::from_secs(1);

type Param<'a> = &'a (dyn ToSql + Sync);

/// A pooled connection with a deadline. Its drop returns it to the pool. If a query is under way
/// then, because its caller has gone away or its time is over, the query is cancelled first.
pub struct DeadlineClient {
    /// `Some` until the drop.
    client: Option<Object<Manager>>,
    deadline: Deadline,
    turn: Option<OwnedSemaphorePermit>,
}

/// The transaction of a [`DeadlineClient`]; it shares the deadline.
pub struct DeadlineTransaction<'a> {
    tx: Transaction<'a>,
    deadline: Deadline,
}

/// The time at which every wait ends, and the number of unanswered queries.
#[derive(Clone)]
struct Deadline(Instant, Arc<AtomicU32>);

impl Deadline {
    async fn wait<T, E>(&self, answer: impl Future<Output = Result<T, E>>) -> Result<T, StoreError>
    where
        StoreError: From<E>,
    {
        self.1.fetch_add(1, Ordering::Relaxed);
        // If this future is dropped here, or the time is over, the query stays counted.
        let answer = timeout_at(self.0, answer)
            .await
            .map_err(|_| StoreError::silent())?;
        self.1.fetch_sub(1, Ordering::Relaxed);
        Ok(answer?)
    }
}

impl DeadlineClient {
    /// Takes a connection; `limit` covers the wait for it and everything done with it.
    pub(super) async fn take(
        pool: &Pool,
        limit: Duration,
        turn: Option<OwnedSemaphorePermit>,
    ) -> Result<Self, StoreError> {
        let deadline = Deadline(Instant::now() + limit, Arc::default());
        Ok(Self {
            client: Some(deadline.wait(pool.get()).await?),
            deadline,
            turn,
        })
    }

    fn client(&self) -> &Pooled {
        self.client
            .as_ref()
            .expect("the connection is there until the drop")
    }

    pub async fn transaction(&mut self) -> Result<DeadlineTransaction<'_>, StoreError> {
        let deadline = self.deadline.clone();
        let pooled = self
            .client
            .as_mut()
            .expect("the connection is there until the drop");
        Ok(DeadlineTransaction {
            tx: deadline.wait(pooled.client.transaction()).await?,
            deadline,
        })
    }
}

/// The queries common to both; each waits until the deadline at most.
macro_rules! queries {
    ($self:ident => $client:expr) => {
        pub async fn prepare_cached(&$self, sql: &str) -> Result<Statement, StoreError> {
            $self.deadline.wait($client.prepare_cached(sql)).await
        }

        pub async fn query<S: ?Sized + ToStatement>(&$self, sql: &S, params: &[Param<'_>]) -> Result<Vec<Row>, StoreError> {
            $self.deadline.wait($client.query(sql, params)).await
        }

        pub async fn query_one<S: ?Sized + ToStatement>(&$self, sql: &S, params: &[Param<'_>]) -> Result<Row, StoreError> {
            $self.deadline.wait($client.query_one(sql, params)).await
        }

        pub async fn query_opt<S: ?Sized + ToStatement>(
            &$self,
            sql: &S,
            params: &[Param<'_>],
        ) -> Result<Option<Row>, StoreError> {
            $self.deadline.wait($client.query_opt(sql, params)).await
        }

        pub async fn execute<S: ?Sized + ToStatement>(&$self, sql: &S, params: &[Param<'_>]) -> Result<u64, StoreError> {
            $self.deadline.wait($client.execute(sql, params)).await
        }

        pub async fn batch_execute(&$self, sql: &str) -> Result<(), StoreError> {
            $self.deadline.wait($client.batch_execute(sql)).await
        }
    };
}

impl DeadlineClient {
    queries!(self => self.client().client);
}

impl DeadlineTransaction<'_> {
    queries!(self => self.tx);

    pub async fn commit(self) -> Result<(), StoreError> {
        self.deadline.wait(self.tx.commit()).await
    }
}

impl Drop for DeadlineClient {
    fn drop(&mut self) {
        let Some(object) = self.client.take() else {
            return;
        };
        if self.deadline.1.load(Ordering::Relaxed) == 0 {
            return;
        }
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(end_query(object, self.turn.take()))),
            // Removed from the pool, and closed.
            Err(_) => drop(Object::take(object)),
        }
    }
}

/// Ends the query that runs on a connection. The permit, if there is one, is held until Postgres
/// reports the end: whatever callers do, no more queries run at once than there are permits.
async fn end_query(object: Object<Manager>, _turn: Option<OwnedSemaphorePermit>) {
    // Postgres answers an empty query after all earlier ones.
    if timeout(LEFT_ALONE, object.client.simple_query(""))
        .await
        .is_ok_and(|answer| answer.is_ok())
    {
        return;
    }
    // A cancel request may arrive late and would hit the next query, so the connection leaves the
    // pool and gets none.
    let pooled = Object::take(object);
    let gives_up = Instant::now() + Duration::from_millis(STATEMENT_TIMEOUT_MS.into());
    let mut wait = CANCEL_WAIT;
    while Instant::now() < gives_up && !pooled.client.is_closed() {
        let (token, tls) = pooled.canceller();
        if !matches!(
            timeout(CANCEL_WAIT, token.cancel_query(tls)).await,
            Ok(Ok(()))
        ) {
            tracing::debug!("a query could not be cancelled");
        }
        if timeout(wait, pooled.client.simple_query("")).await.is_ok() {
            return;
        }
        wait *= 2;
    }
}
